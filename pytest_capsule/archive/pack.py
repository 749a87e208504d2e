"""Writes a layer in overlay form as a tar archive: the same files give the same bytes, in the order of their names.

The format is ustar with pax records where a value has no room, as Docker writes it, but times keep their nanoseconds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_capsule._linux import ownership
from pytest_capsule.archive.members import BLOCK

END = bytes(2 * BLOCK)
_CHUNK = 1 << 20
_PIECE = 1 << 20
_HIDDEN = b".wh."
_OPAQUE = b".wh..wh..opq"
_OPAQUE_MARK = "user.overlay.opaque"
# Of the kernel's overlay and of this machine, not of the files.
_NOT_SHIPPED = ("user.overlay.", "trusted.", "security.")
_CAPABILITY = "security.capability"
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_OCTAL_7, _OCTAL_11 = 8**7 - 1, 8**11 - 1


def packed(tree: str) -> Iterator[bytes]:
    """The archive of the directory ``tree`` in pieces of about 1 MiB."""
    piece = bytearray()
    for part in _parts(tree):
        if len(part) >= _PIECE:
            if piece:
                yield bytes(piece)
                piece.clear()
            yield part
            continue
        piece += part
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    piece += END
    yield bytes(piece)


def _parts(tree: str) -> Iterator[bytes]:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        entry = _Entry.of(root, b".", os.fstat(root), root)
        if (entry.mode, entry.uid, entry.gid) != (0o755, 0, 0) or entry.xattrs:
            yield _header(b"./", entry)
        yield from _Packing().directory(root, b"")
    finally:
        os.close(root)


@dataclass(slots=True)
class _Entry:
    """A file's metadata as the archive is to tell them."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: int
    xattrs: dict[str, bytes]
    opaque: bool = False
    link: bytes = b""

    @classmethod
    def of(cls, parent: int, name: bytes, info: os.stat_result, fd: int) -> _Entry:
        """Of the file ``name``, opened as ``fd`` (-1 for what cannot be opened)."""
        kind = _KINDS[stat.S_IFMT(info.st_mode)]
        size = info.st_size if kind == b"0" else 0
        entry = cls(
            kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, size, info.st_mtime_ns, info.st_rdev, {}
        )
        if kind == b"2":
            entry.link = os.readlink(name, dir_fd=parent)
        if fd >= 0:
            entry._read_xattrs(fd)
        return entry

    def _read_xattrs(self, fd: int) -> None:
        for key in sorted(os.listxattr(fd)):
            if key == _OPAQUE_MARK:
                self.opaque = os.getxattr(fd, key) == b"y"
            elif key == ownership.XATTR:
                self.uid, self.gid = ownership.recorded(fd) or (self.uid, self.gid)
            elif key == _CAPABILITY or not key.startswith(_NOT_SHIPPED):
                self.xattrs[key] = os.getxattr(fd, key)


class _Packing:
    """One archive in the making: a file with several names is stored under the first."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], bytes] = {}

    def directory(self, fd: int, prefix: bytes) -> Iterator[bytes]:
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            info = os.lstat(name, dir_fd=fd)
            kind = stat.S_IFMT(info.st_mode)
            if kind == stat.S_IFCHR and info.st_rdev == 0:
                yield _header(prefix + _HIDDEN + name, _mark(info.st_mtime_ns))
            elif kind in (stat.S_IFREG, stat.S_IFDIR):
                yield from self._opened(fd, prefix, name, info)
            elif kind in _KINDS:  # a socket means nothing in an image
                yield from self._stored(prefix + name, info, _Entry.of(fd, name, info, -1), -1)

    def _opened(self, parent: int, prefix: bytes, name: bytes, info: os.stat_result) -> Iterator[bytes]:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            entry = _Entry.of(parent, name, info, fd)
            if entry.kind != b"5":
                yield from self._stored(prefix + name, info, entry, fd)
                return
            here = prefix + name + b"/"
            yield _header(here, entry)
            if entry.opaque:
                yield _header(here + _OPAQUE, _mark(entry.mtime_ns))
            yield from self.directory(fd, here)
        finally:
            os.close(fd)

    def _stored(self, path: bytes, info: os.stat_result, entry: _Entry, fd: int) -> Iterator[bytes]:
        if info.st_nlink > 1:
            first = self._names.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                entry.kind, entry.size, entry.link, entry.xattrs = b"1", 0, first, {}
        yield _header(path, entry)
        if not entry.size:
            return
        left = entry.size
        while left:
            data = os.read(fd, min(left, _CHUNK))
            if not data:
                raise OSError(5, "the file became shorter while it was read", os.fsdecode(path))
            left -= len(data)
            yield data
        yield padding(entry.size)


def file_header(path: str, size: int, mtime_ns: int = 0) -> bytes:
    """The header of a plain file of ``size`` bytes; its content follows, then its ``padding``, at the end ``END``."""
    return _header(os.fsencode(path), _Entry(b"0", 0o644, 0, 0, size, mtime_ns, 0, {}))


def padding(size: int) -> bytes:
    """What follows a member's content of ``size`` bytes."""
    return bytes(-size % BLOCK)


def _mark(mtime_ns: int) -> _Entry:
    return _Entry(b"0", 0, 0, 0, 0, mtime_ns, 0, {})


def _header(path: bytes, entry: _Entry) -> bytes:
    """A member's header, after one with the pax records that it needs."""
    records: dict[bytes, bytes] = {}
    if len(path) > 100:
        records[b"path"] = path
    if len(entry.link) > 100:
        records[b"linkpath"] = entry.link
    for key, number, most in (
        (b"uid", entry.uid, _OCTAL_7),
        (b"gid", entry.gid, _OCTAL_7),
        (b"size", entry.size, _OCTAL_11),
    ):
        if number > most:
            records[key] = b"%d" % number
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = _time(entry.mtime_ns)
    for name, value in entry.xattrs.items():
        records[b"SCHILY.xattr." + os.fsencode(name)] = value
    block = _block(path, entry, max(0, seconds))
    if not records:
        return block
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    extended = _Entry(b"x", 0o644, 0, 0, len(data), 0, 0, {})
    return (
        _block(b"PaxHeaders.0/" + path.rstrip(b"/").rpartition(b"/")[2], extended, 0)
        + data
        + padding(len(data))
        + block
    )


def _block(path: bytes, entry: _Entry, seconds: int) -> bytes:
    device = (os.major(entry.device), os.minor(entry.device)) if entry.kind in (b"3", b"4") else (0, 0)
    fields = (
        path[:100].ljust(100, b"\0"),
        b"%07o\0" % entry.mode,
        b"%07o\0" % (entry.uid if entry.uid <= _OCTAL_7 else 0),
        b"%07o\0" % (entry.gid if entry.gid <= _OCTAL_7 else 0),
        b"%011o\0" % (entry.size if entry.size <= _OCTAL_11 else 0),
        b"%011o\0" % (seconds if seconds <= _OCTAL_11 else 0),
        b" " * 8,
        entry.kind,
        entry.link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0%07o\0" % device,
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value``; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _time(nanoseconds: int) -> bytes:
    sign, (seconds, fraction) = b"-" if nanoseconds < 0 else b"", divmod(abs(nanoseconds), 10**9)
    return b"%s%d.%09d" % (sign, seconds, fraction)
