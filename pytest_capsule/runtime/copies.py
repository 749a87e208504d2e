"""A root filesystem without an overlay: the layers merged into a copy, and what was changed in it since.

For hosts that can mount none. What a file was when the copy was made is known by its inode and the time of its last
change (``ctime``), which nothing but the kernel sets: whatever is written, renamed, linked or given to another changes
one of the two. So ``changes`` and ``export`` say what the writable layer of an overlay would hold.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_capsule._linux import inroot
from pytest_capsule.runtime import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OPAQUE = "user.overlay.opaque"
_WHITEOUT = os.makedev(0, 0)
Mark = tuple[int, int]


class Copy(NamedTuple):
    """A copy: ``fd`` is its directory, ``marks`` what lay in each of its directories, by path, when it was made."""

    fd: int
    marks: dict[str, dict[str, Mark]]

    @classmethod
    def of(cls, lowers: Sequence[bytes], fd: int) -> Copy:
        """Merge layers, topmost first, into the empty directory behind ``fd``."""
        links: dict[tuple[int, int], str] = {}
        for lower in reversed(lowers):
            source = os.open(lower, files.DIRECTORY)
            try:
                _merge(source, fd, "", fd, links)
            finally:
                os.close(source)
            links.clear()
        copy = cls(fd, {})
        copy.settle()
        return copy

    def settle(self) -> None:
        """Let what is there now count as what was copied."""
        self.marks.clear()
        _take_marks(self.fd, "", self.marks)

    def changes(self, prefix: str) -> list[dict[str, Any]]:
        """As ``files.changes``; ``prefix`` is where the copy is mounted."""
        return list(self._changes(self.fd, "", prefix))

    def _changes(self, fd: int, path: str, prefix: str) -> Iterator[dict[str, Any]]:
        for name, info, changed in self._entries(fd, path):
            here = f"{path}/{name}"
            if info is None:
                yield {"path": prefix + here, "kind": "whiteout"}
            elif stat.S_ISDIR(info.st_mode):
                with _opened(fd, name) as inner:
                    below = list(self._changes(inner, here, prefix))
                if changed or below:
                    yield {"path": prefix + here, "kind": "directory"}
                yield from below
            elif changed:
                yield {"path": prefix + here, "kind": "file"}

    def export(self, target: int) -> int:
        """Write what has changed into the directory ``target``, as a layer; returns how many entries that are."""
        return self._export(self.fd, target, "", target, {})

    def _export(self, fd: int, target: int, path: str, top: int, links: dict[tuple[int, int], str]) -> int:
        count = 0
        for name, info, changed in self._entries(fd, path):
            here = f"{path}/{name}"
            if info is None:
                os.mknod(name, stat.S_IFCHR, _WHITEOUT, dir_fd=target)
                count += 1
            elif stat.S_ISDIR(info.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                with _opened(fd, name) as inner, _opened(target, name) as written:
                    below = self._export(inner, written, here, top, links)
                    if changed or below:
                        files.set_metadata(inner, written, info)
                        count += below + 1
                if not changed and not below:
                    os.rmdir(name, dir_fd=target)
            elif changed:
                count += _copy(fd, target, here, top, info, links)
        return count

    def _entries(self, fd: int, path: str) -> Iterator[tuple[str, os.stat_result | None, bool]]:
        """Each name that is, or was, in a directory: its ``lstat`` if it still is, and whether it is another now."""
        before = self.marks.get(path, {})
        for name in sorted({*os.listdir(fd), *before}):
            try:
                info = os.lstat(name, dir_fd=fd)
            except FileNotFoundError:
                if name in before:
                    yield name, None, True
                continue
            yield name, info, before.get(name) != (info.st_ino, info.st_ctime_ns)


def _merge(source: int, target: int, path: str, top: int, links: dict[tuple[int, int], str]) -> None:
    for name in os.listdir(source):
        info = os.lstat(name, dir_fd=source)
        here = f"{path}/{name}"
        if not stat.S_ISDIR(info.st_mode):
            _remove(target, name)
            if not (stat.S_ISCHR(info.st_mode) and info.st_rdev == _WHITEOUT):
                _copy(source, target, here, top, info, links)
            continue
        with _opened(source, name) as inner:
            if _is_opaque(inner) or not _is_directory(target, name):
                _remove(target, name)
                os.mkdir(name, 0o700, dir_fd=target)
            with _opened(target, name) as written:
                _merge(inner, written, here, top, links)
                files.set_metadata(inner, written, info)
                with contextlib.suppress(OSError):
                    os.removexattr(written, _OPAQUE)  # it hid what is below, and there is nothing below any more


def _copy(source: int, target: int, path: str, top: int, info: os.stat_result, links: dict[Any, str]) -> bool:
    """Copy what is no directory; a further name of a file that was copied is linked to it."""
    name, key = os.path.basename(path), (info.st_dev, info.st_ino)
    if info.st_nlink > 1 and key in links:
        os.link(links[key], name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
        return True
    opened = os.open(name, files.FILE, dir_fd=source) if stat.S_ISREG(info.st_mode) else -1
    try:
        copied = files.copy_node(source, target, name, info, opened)
    finally:
        if opened >= 0:
            os.close(opened)
    if copied and info.st_nlink > 1:
        links[key] = path.lstrip("/")
    return copied


def _take_marks(fd: int, path: str, marks: dict[str, dict[str, Mark]]) -> None:
    here = marks[path] = {}
    for name in os.listdir(fd):
        info = os.lstat(name, dir_fd=fd)
        here[name] = (info.st_ino, info.st_ctime_ns)
        if stat.S_ISDIR(info.st_mode):
            with _opened(fd, name) as inner:
                _take_marks(inner, f"{path}/{name}", marks)


def _is_directory(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError:
        return False


def _remove(parent: int, name: str) -> None:
    if _is_directory(parent, name):
        inroot.remove_tree(parent, name)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)


@contextlib.contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    fd = os.open(name, files.DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
