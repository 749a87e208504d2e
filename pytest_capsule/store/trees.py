"""Whole directory trees of the store: measured, moved, dated and removed.

Their files may belong to ids that only the supervisor's user namespace may touch, so these functions are also called
there by name (``runtime.worker``): they take and give plain values.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OPAQUE = "user.overlay.opaque"
_DEEPEST = 64  # folders within each other that are open at once


def call(function: str, *paths: str) -> Any:
    """Call one of the functions below by its name."""
    functions: dict[str, Callable[..., Any]] = {
        one.__name__: one for one in (measure, state, remove, move, set_times, clamp_times)
    }
    return functions[function](*paths)


def measure(path: str) -> tuple[int, str]:
    """The bytes of all files beneath ``path``, one that has several names counted once; and a digest of all that can be
    told of them without reading one: names, modes, sizes and times. Owners look different from other namespaces."""
    total, seen, lines = 0, set(), []
    for one, info in _everything(path):
        is_file = stat.S_ISREG(info.st_mode)
        if is_file and (info.st_nlink == 1 or info.st_ino not in seen):
            seen.add(info.st_ino)
            total += info.st_size
        size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
        lines.append(f"{one[len(path) :]}\0{info.st_mode} {size} {info.st_mtime_ns} {info.st_rdev}\0")
    digest = hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape"), usedforsecurity=False)
    return total, digest.hexdigest()


def state(path: str) -> tuple[str, int]:
    """A digest that is another one when anything beneath ``path`` has changed, and when something last did (ctime).

    For folders that may change at any time, and are not copied: what it holds is seen from one namespace only.
    """
    lines, changed = [], 0
    for one, info in _everything(path):
        changed = max(changed, info.st_ctime_ns)
        lines.append(f"{one}\0{info.st_dev} {info.st_ino} {info.st_ctime_ns} {info.st_size}\0")
    digest = hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape"), usedforsecurity=False)
    return digest.hexdigest(), changed


def is_opaque(path: str) -> bool:
    """Whether a layer hides all that lies below it."""
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False


def set_times(path: str, seconds: str) -> None:
    """Let everything beneath ``path``, and it itself, be of that time."""
    for one, _ in _everything(path):
        os.utime(one, (int(seconds), int(seconds)), follow_symlinks=False)


def clamp_times(path: str, seconds: str) -> None:
    """Let nothing beneath ``path``, nor it itself, be of a later time."""
    for one, info in _everything(path):
        if info.st_mtime_ns > int(seconds) * 10**9:
            os.utime(one, (int(seconds), int(seconds)), follow_symlinks=False)


def _everything(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """A path and all beneath it; ``OSError`` (ENAMETOOLONG) where folders lie too deep in each other to be named."""
    found = [path]
    while found:
        one = found.pop()
        with contextlib.suppress(PermissionError):  # without root, a folder that its own owner may not look into
            info = os.lstat(one)
            yield one, info
            if stat.S_ISDIR(info.st_mode):
                found += (f"{one}/{name}" for name in os.listdir(one))


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
        while names := os.listdir(fd):
            _empty(fd, names, fd)
    finally:
        os.close(fd)
    os.rmdir(path)


def _empty(fd: int, names: list[str], top: int, depth: int = 1) -> None:
    """Remove what lies in a directory; what lies very deep is moved to ``top``, from where it is not deep any more.

    A container can make directories in each other without end, more than there may be calls or descriptors.
    """
    for name in names:
        try:
            os.unlink(name, dir_fd=fd)
            continue
        except (IsADirectoryError, PermissionError):
            os.chmod(name, 0o700, dir_fd=fd)
        if depth == _DEEPEST:
            os.rename(name, secrets.token_hex(16), src_dir_fd=fd, dst_dir_fd=top)
            continue
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            _empty(inner, os.listdir(inner), top, depth + 1)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=fd)
