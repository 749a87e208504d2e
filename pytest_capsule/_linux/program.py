"""A program as a file in memory that nobody can change any more.

What forks a container's commands can be had hold of inside: ``#!/proc/self/exe`` is enough (CVE-2019-5736). A script
cannot be kept from running it, so it must not be a file of the host.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

_EXECUTABLE = 0x10  # MFD_EXEC, linux/memfd.h; before Linux 6.3 every file in memory is
_STDERR = 2
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True)
class Program:
    """``fd`` is to be executed and closed; ``variables`` are all the environment that it needs."""

    fd: int
    variables: dict[str, str]


def sealed(path: str) -> Program:
    """A copy of the program at ``path``."""
    path = os.path.realpath(path)
    with open(path, "rb") as file:
        content = file.read()
    fd = above_standard(_memory(os.path.basename(path)))
    with open(fd, "wb", closefd=False) as copy:
        copy.write(content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    folders = [os.environ.get("LD_LIBRARY_PATH")]
    if b"$ORIGIN" in content:  # its libraries lie beside it, and in memory there is no beside: ld.so(8)
        folders.insert(0, os.path.join(os.path.dirname(os.path.dirname(path)), "lib"))
    libraries = ":".join(filter(None, folders))
    return Program(fd, {"LD_LIBRARY_PATH": libraries} if libraries else {})


def above_standard(fd: int) -> int:
    """A descriptor to be inherited: another one where it took the place of a standard stream, which was closed here.

    Whoever is started gets standard streams of its own there.
    """
    if fd > _STDERR:
        return fd
    above = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
    os.close(fd)
    return above


def _memory(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _EXECUTABLE)
    except OSError:
        return os.memfd_create(name, flags)
