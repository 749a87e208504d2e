"""The extended attributes that a copy of a file has too: those of users, capabilities and access lists.

Not those that belong to where the file lies: labels of the host's security modules, marks of overlay filesystems, and
the record of an owner, which is told in another way.
"""

from __future__ import annotations

import errno
import os

from pytest_capsule._linux import ownership

_CAPABILITY = "security.capability"
_OF_THE_PLACE = ("security.", "trusted.", "user.overlay.", ownership.XATTR)
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM)


def read(file: int | str) -> dict[str, bytes]:
    """Those of an open file, or of what is at a path, by name."""
    try:
        names = os.listxattr(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return {}
    return {name: os.getxattr(file, name) for name in sorted(names) if _goes_along(name)}


def write(file: int, xattrs: dict[str, bytes]) -> None:
    """Give them to an open file; what its filesystem or this user namespace does not take is left out, as in Docker."""
    for name, value in xattrs.items():
        try:
            os.setxattr(file, name, value)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


def _goes_along(name: str) -> bool:
    return name == _CAPABILITY or not name.startswith(_OF_THE_PLACE)
