"""Whole directory trees of the store: measured, moved, dated and removed.

Their files may belong to ids that only the supervisor's user namespace may touch, so these functions are also called
there by name (``runtime.worker``): they take and give plain values.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def call(function: str, *paths: str) -> Any:
    """Call ``size``, ``remove``, ``move``, ``set_times`` or ``clamp_times`` by its name."""
    functions: dict[str, Callable[..., Any]] = {
        one.__name__: one for one in (size, remove, move, set_times, clamp_times)
    }
    return functions[function](*paths)


def size(path: str) -> int:
    """The bytes of all files beneath ``path``, one that has several names counted once."""
    total, seen = 0, set()
    for folder, _, names in os.walk(path):
        for name in names:
            info = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(info.st_mode) and (info.st_nlink == 1 or info.st_ino not in seen):
                seen.add(info.st_ino)
                total += info.st_size
    return total


def set_times(path: str, seconds: str) -> None:
    """Let everything beneath ``path``, and it itself, be of that time."""
    for one in _everything(path):
        os.utime(one, (int(seconds), int(seconds)), follow_symlinks=False)


def clamp_times(path: str, seconds: str) -> None:
    """Let nothing beneath ``path``, nor it itself, be of a later time."""
    for one in _everything(path):
        if os.lstat(one).st_mtime_ns > int(seconds) * 10**9:
            os.utime(one, (int(seconds), int(seconds)), follow_symlinks=False)


def _everything(path: str) -> Iterator[str]:
    yield path
    for folder, folders, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in (*folders, *names))


def move(path: str, target: str) -> None:
    """Rename a directory: into another one that takes a right to itself, for its ``..`` changes."""
    os.rename(path, target)


def remove(path: str) -> None:
    """Remove a tree whatever the modes of its directories; nothing when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    try:
        _empty(fd)
    finally:
        os.close(fd)
    os.rmdir(path)


def _empty(fd: int) -> None:
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except (IsADirectoryError, PermissionError):
            os.chmod(name, 0o700, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                _empty(inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=fd)
