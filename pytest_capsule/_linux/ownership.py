"""Owners that a file was given and cannot have: who has a single id keeps them in an extended attribute.

The attribute is ``user.containers.override_stat`` of containers/storage, ``uid:gid:mode``, which podman and
fuse-overlayfs read too; they may add a type after it. It moves with its file through renames, copy-ups and layers. Its
mode is that of the moment; the file's own is what counts. Only files and directories can carry it (xattr(7)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

XATTR = "user.containers.override_stat"
ROOT = (0, 0)


def recorded(file: int | str, *, follow: bool = False) -> tuple[int, int] | None:
    """The owner ``(uid, gid)`` that is recorded for an open file or a path, if one is."""
    try:
        value = os.getxattr(file, XATTR, follow_symlinks=follow or isinstance(file, int))
    except OSError:
        return None
    uid, _, rest = value.partition(b":")
    gid = rest.partition(b":")[0]
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() else None


def recorded_in(parent: int, name: str) -> tuple[int, int] | None:
    """The owner that is recorded for a name in a directory."""
    with contextlib.suppress(OSError), _opened(parent, name) as file:
        return None if file is None else recorded(file)
    return None


def record(file: int | str, uid: int, gid: int) -> None:
    """Record an owner; root's is what a file without a record has. Nothing for what can carry no attribute.

    ``file`` is a path, which is followed, or a descriptor that is open for more than its path (no ``O_PATH``).
    """
    if (uid, gid) == ROOT:
        with contextlib.suppress(OSError):
            os.removexattr(file, XATTR)
        return
    mode = stat.S_IMODE(os.stat(file).st_mode)
    try:
        os.setxattr(file, XATTR, b"%d:%d:0%o" % (uid, gid, mode))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP):
            raise


def record_in(parent: int, name: str, uid: int, gid: int) -> None:
    """Record an owner for a name in a directory."""
    with _opened(parent, name) as file:
        if file is not None:
            record(file, uid, gid)


def give(parent: int, name: str, uid: int, gid: int) -> None:
    """``lchown`` of a name in a directory; the owner is recorded where this user namespace has no such id (EINVAL)."""
    try:
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        record_in(parent, name, uid, gid)


def give_open(file: int, uid: int, gid: int) -> None:
    """``fchown``, or a record."""
    try:
        os.fchown(file, uid, gid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        record(file, uid, gid)


@contextlib.contextmanager
def _opened(parent: int, name: str) -> Iterator[int | None]:
    """The file or directory of that name, ``None`` for what can carry no attribute."""
    if stat.S_IFMT(os.lstat(name, dir_fd=parent).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        yield None
        return
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield file
    finally:
        os.close(file)
