"""What init does with files, on behalf of the test: every path is resolved here, inside the container's root.

Init has pivoted, so "/" is the container's. It has no ``/proc`` of its own to rely on and imports nothing any more:
only descriptors and what was imported before the fork.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import inroot, ownership

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_capsule.runtime.mounting import Upper

_SPECIAL = os.O_NONBLOCK | os.O_NOCTTY  # a FIFO or a terminal that stands where a file should must not stop init
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | _SPECIAL
_OVERLAY = "user.overlay."
# What opening answers when another thing has taken the name since it was looked at: a symlink, a socket, no directory.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_SMALL = 1 << 16  # so much is copied faster by us than by the kernel, which has to set up a pipe for it
_COPY_CHUNK = 1 << 30
_BLOCK = 512  # of st_blocks, whatever the filesystem's own are


def _root() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@contextlib.contextmanager
def _opened_root() -> Iterator[int]:
    root = _root()
    try:
        yield root
    finally:
        os.close(root)


def open_file(path: str, flags: int, mode: int) -> int:
    """Open a file for the test, with the container's root as the owner of what is created."""
    if flags & os.O_PATH:
        with _opened_root() as root:
            return inroot.open_inside(root, path, flags)
    with _opened_root() as root:
        fd = inroot.open_inside(root, path, flags | _SPECIAL, mode)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
    return fd


def read_small(path: str, limit: int = 1 << 20) -> str:
    """The text of a small file such as ``/etc/passwd``; empty where there is none."""
    try:
        fd = open_file(path, os.O_RDONLY, 0)
    except OSError:
        return ""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return ""
        return os.read(fd, min(info.st_size, limit)).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def describe(info: os.stat_result) -> dict[str, int]:
    """A stat result as a message."""
    return {
        "mode": info.st_mode,
        "uid": info.st_uid,
        "gid": info.st_gid,
        "size": info.st_size,
        "mtime_ns": info.st_mtime_ns,
        "rdev": info.st_rdev,
        "dev": info.st_dev,
        "ino": info.st_ino,
        "nlink": info.st_nlink,
    }


def _describe_in(parent: int, name: str, recorded: bool) -> dict[str, int]:
    """``lstat``, with the owner that is recorded (``_linux.ownership``) in the place of root."""
    found = describe(os.lstat(name, dir_fd=parent))
    if recorded and (owner := ownership.recorded_in(parent, name)):
        found["uid"], found["gid"] = owner
    return found


def status(path: str, *, follow: bool, recorded: bool = False) -> dict[str, int]:
    """``stat`` or ``lstat`` of a path; with ``recorded``, as ``entries``."""
    with _opened_root() as root:
        if follow:
            fd = inroot.open_inside(root, path, os.O_PATH)
            try:
                return describe(os.fstat(fd))
            finally:
                os.close(fd)
        if not path.strip("/"):
            return describe(os.fstat(root))
        with inroot.parent(root, path) as (fd, name):
            return _describe_in(fd, name, recorded)


def link_target(path: str) -> str:
    """Where a symlink points."""
    with _opened_root() as root, inroot.parent(root, path) as (fd, name):
        return os.readlink(name, dir_fd=fd)


def entries(path: str, *, recorded: bool = False) -> list[dict[str, Any]]:
    """The entries of a directory with their ``lstat`` and, for symlinks, their targets; sorted by name.

    With ``recorded``, an owner that could only be recorded (``_linux.ownership``) is the file's.
    """
    with _opened_root() as root:
        fd = inroot.open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found: list[dict[str, Any]] = []
        for name in sorted(os.listdir(fd)):
            # Gone between the two calls, or, without root, a directory of another owner that hides even its marks.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                info = _describe_in(fd, name, recorded)
                target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(info["mode"]) else None
                found.append({"name": name, "target": target, **info})
        return found
    finally:
        os.close(fd)


def make_directories(path: str, mode: int, owner: tuple[int, int]) -> list[str]:
    """``mkdir -p``; returns the directories that were not there."""
    with _opened_root() as root:
        return inroot.make_directories(root, path, mode=mode, owner=owner)


def claim(paths: list[str], uid: int, gid: int) -> None:
    """Record the owner of those files that have none on record."""
    with _opened_root() as root:
        for path in paths:
            with inroot.parent(root, path) as (parent, name):
                if ownership.recorded_in(parent, name) is None:
                    ownership.record_in(parent, name, uid, gid)


def changes(uppers: list[Upper]) -> list[dict[str, Any]]:
    """Every entry of the writable layers as a path of the container: ``kind`` is its file type, ``whiteout`` or
    ``opaque`` for a directory that hides what is below it."""
    found: list[dict[str, Any]] = []
    for upper in uppers:
        prefix = upper.target.rstrip("/")
        if upper.copy is not None:
            found += upper.copy.changes(prefix)
        else:
            _walk_changes(upper.fd, prefix, found)
    return found


def _walk_changes(fd: int, prefix: str, found: list[dict[str, Any]]) -> None:
    for name in sorted(os.listdir(fd)):
        path = f"{prefix}/{name}"
        try:  # the container goes on meanwhile: what is gone when its turn comes is no change
            info = os.lstat(name, dir_fd=fd)
            inner = os.open(name, DIRECTORY, dir_fd=fd) if stat.S_ISDIR(info.st_mode) else -1
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            found.append({"path": path, "kind": "whiteout"})
        elif inner >= 0:
            try:
                opaque = _overlay_mark(inner, "opaque")
                found.append({"path": path, "kind": "opaque" if opaque else "directory"})
                _walk_changes(inner, path, found)
            finally:
                os.close(inner)
        else:
            found.append({"path": path, "kind": "file"})


def _overlay_mark(fd: int, name: str) -> bytes:
    try:
        return os.getxattr(fd, _OVERLAY + name)
    except OSError:
        return b""


def export(uppers: list[Upper], destination: int) -> int:
    """Copy the writable layers into the directory ``destination`` as one layer; returns how many entries it has.

    Something may go on in the container meanwhile, so nothing is opened that could make init wait, and what vanishes is
    left out.
    """
    links: dict[tuple[int, int], str] = {}
    count = 0
    for upper in uppers:
        target = os.dup(destination)
        for name in upper.target.strip("/").split("/") if upper.target != "/" else ():
            if not os.listdir(upper.fd):
                break
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=target)
            inner = os.open(name, DIRECTORY, dir_fd=target)
            os.close(target)
            target = inner
        try:
            if upper.copy is not None:
                count += upper.copy.export(target)
            else:
                count += _Export(destination, links).tree(upper.fd, target, upper.target.strip("/"))
        finally:
            os.close(target)
    return count


def copy_tree(source: int, target: int) -> None:
    """Copy what a directory holds into another, and its owner and mode; hard links stay such."""
    _Export(target, {}).tree(source, target, "")
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))


class _Export:
    """The copy of a writable layer. ``links`` has where in ``destination`` a file with several names already is."""

    def __init__(self, destination: int, links: dict[tuple[int, int], str]) -> None:
        self._destination = destination
        self._links = links

    def tree(self, source: int, target: int, path: str) -> int:
        count = 0
        with os.scandir(source) as entries:
            found = list(entries)
        for entry in found:
            try:  # what is a file or a directory is looked at when it is open: that is one call less
                opened = os.open(entry.name, flags, dir_fd=source) if (flags := _opening(entry)) is not None else -1
                info = os.fstat(opened) if opened >= 0 else os.lstat(entry.name, dir_fd=source)
            except OSError as error:
                if error.errno not in _VANISHED:
                    raise
                continue
            if opened < 0 and (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
                continue  # it took the name of what was there, and comes into the next commit
            try:
                count += self._entry(source, target, path, entry.name, info, opened)
            finally:
                if opened >= 0:
                    os.close(opened)
        return count

    def _entry(self, source: int, target: int, path: str, name: str, info: os.stat_result, opened: int) -> int:
        key, here = (info.st_dev, info.st_ino), f"{path}/{name}".lstrip("/")
        if stat.S_ISDIR(info.st_mode):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=target)
            inner = os.open(name, DIRECTORY, dir_fd=target)
            try:
                count = 1 + self.tree(opened, inner, here)
                set_metadata(opened, inner, info)
            finally:
                os.close(inner)
            return count
        if info.st_nlink > 1 and key in self._links:  # nobody but this process writes in there: the path is safe
            os.link(self._links[key], name, src_dir_fd=self._destination, dst_dir_fd=target, follow_symlinks=False)
            return 1
        if not copy_node(source, target, name, info, opened):
            return 0
        if info.st_nlink > 1:
            self._links[key] = here
        return 1


def _opening(entry: os.DirEntry[str]) -> int | None:
    """The flags to open a file or directory with, to copy it; ``None`` for what is neither."""
    if entry.is_file(follow_symlinks=False):
        return FILE
    return DIRECTORY if entry.is_dir(follow_symlinks=False) else None


def copy_node(source: int, target: int, name: str, info: os.stat_result, opened: int) -> bool:
    """Copy what is no directory into another; ``opened`` is the content of a file. Whether it was still there."""
    if opened >= 0:
        if not stat.S_ISREG(info.st_mode):  # another took its name since it was looked at
            return False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        write = os.open(name, flags, info.st_mode & 0o777, dir_fd=target)
        try:
            copy_content(opened, write, info.st_size)
            set_metadata(opened, write, info)
        finally:
            os.close(write)
        return True
    if stat.S_ISLNK(info.st_mode):
        try:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # gone, or no link any more
                raise
            return False
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode) and not (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0):  # nor a whiteout
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=target)  # after chown, which clears setuid bits
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)
    return True


def _copy_xattrs(source: int, target: int) -> None:
    for key in os.listxattr(source):
        if key in (_OVERLAY + "opaque", "security.capability") or not key.startswith(
            (_OVERLAY, "security.", "trusted.")
        ):
            os.setxattr(target, key, os.getxattr(source, key))


def set_metadata(source: int, target: int, info: os.stat_result) -> None:
    """Give the copy of a file or directory, by their descriptors, its owner, mode, attributes and times."""
    made, owner = os.fstat(target), (info.st_uid, info.st_gid)
    if (made.st_uid, made.st_gid) != owner:  # a disk takes longer over each change than over all else
        os.fchown(target, *owner)
    if made.st_mode != info.st_mode:
        os.fchmod(target, stat.S_IMODE(info.st_mode))  # after chown, which clears setuid bits
    _copy_xattrs(source, target)  # after chown, which takes away file capabilities
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def copy_content(read: int, write: int, most: int = sys.maxsize) -> None:
    """Copy a file's bytes from descriptor to descriptor, ``most`` of them; what it does not hold takes no room."""
    info = os.fstat(read)
    if info.st_blocks * _BLOCK >= info.st_size:
        _copy_bytes(read, write, most)
        return
    size = min(info.st_size, most)
    os.ftruncate(write, size)
    for start, end in _extents(read):
        os.lseek(read, start, os.SEEK_SET)
        os.lseek(write, start, os.SEEK_SET)
        _copy_bytes(read, write, min(end, size) - start)


def _copy_bytes(read: int, write: int, most: int) -> None:
    """Copy so many bytes, or up to the end: in the kernel, shared where the disk can do that."""
    if most <= _SMALL:
        while most > 0 and (data := os.read(read, most)):
            most -= len(data)
            while data:
                data = data[os.write(write, data) :]
        return
    try:
        while most > 0 and (copied := os.copy_file_range(read, write, min(most, _COPY_CHUNK))):
            most -= copied
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        while most > 0 and (copied := os.sendfile(write, read, None, min(most, _COPY_CHUNK))):
            most -= copied


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
