"""Files named by a path inside a root: the one place where such a path is resolved.

A path comes from a Dockerfile, an archive or a test; what it meets on its way (symlinks, ``..``, whole trees that
change meanwhile) comes from the container. So the kernel resolves it with ``openat2(RESOLVE_IN_ROOT |
RESOLVE_NO_MAGICLINKS)``: no link leaves the root, and none is a door through ``/proc/self/fd`` (CVE-2024-21626).
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from pytest_capsule._linux import constants, ownership, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAFE = constants.RESOLVE_IN_ROOT | constants.RESOLVE_NO_MAGICLINKS
_LINKS = 40  # what the kernel itself follows in one path, MAXSYMLINKS


def open_inside(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open ``path`` beneath the directory descriptor ``root``; symlinks stay inside it."""
    if flags & (os.O_CREAT | os.O_TMPFILE) == 0:
        mode = 0
    return syscalls.openat2(root, path or "/", flags, mode=mode, resolve=_SAFE)


@contextlib.contextmanager
def directory(root: int, path: str) -> Iterator[int]:
    """A descriptor of the directory ``path``, for the ``dir_fd`` of other calls."""
    fd = open_inside(root, path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """The directory that holds ``path`` and the last name of it, which is not followed when it is a symlink."""
    head, name = posixpath.split(path.rstrip("/"))
    with directory(root, head) as fd:
        yield fd, name


def make_directories(root: int, path: str, *, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> list[str]:
    """``mkdir -p`` inside ``root``; follows symlinks, creates what a dangling one points to; returns what it made."""
    made: list[str] = []
    resolved, rest, links = "/", [part for part in reversed(path.split("/")) if part], 0
    while rest:
        part = rest.pop()
        if part == ".":
            continue
        if part == "..":
            resolved = posixpath.dirname(resolved)
            continue
        here = posixpath.join(resolved, part)
        with directory(root, resolved) as fd:
            try:
                info = os.lstat(part, dir_fd=fd)
            except FileNotFoundError:
                _make_directory(part, fd, mode, owner)
                made.append(here)
                resolved = here
                continue
            if not stat.S_ISLNK(info.st_mode):
                if not stat.S_ISDIR(info.st_mode):
                    raise NotADirectoryError(20, "not a directory", here)
                resolved = here
                continue
            links += 1
            if links > _LINKS:
                raise OSError(40, "too many levels of symbolic links", here)
            target = os.readlink(part, dir_fd=fd)
        rest += [name for name in reversed(target.split("/")) if name]
        if target.startswith("/"):
            resolved = "/"
    return made


def _make_directory(name: str, parent_fd: int, mode: int, owner: tuple[int, int]) -> None:
    os.mkdir(name, mode, dir_fd=parent_fd)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        os.fchmod(fd, mode)  # mkdir's mode went through the umask
        info = os.fstat(fd)
        if (info.st_uid, info.st_gid) != owner:
            ownership.give_open(fd, *owner)
    finally:
        os.close(fd)


def remove_tree(parent: int, name: str) -> None:
    """``rm -rf`` of a directory by descriptors, so that nothing swapped for a symlink meanwhile is followed."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(fd, entry.name)
                else:
                    os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
