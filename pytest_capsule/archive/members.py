"""Reads tar archives: ustar, POSIX pax, and GNU's long names, sparse files and large numbers.

``tarfile`` can do it too, but takes longer over a header than the kernel over the file. Sources: POSIX pax(1), GNU
tar's manual ("Basic Tar Format", "Storing Sparse Files"). What is refused follows Go's ``archive/tar``, with which
Docker reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_capsule.archive.compression import Broken

BLOCK = 512
_ZEROS = bytes(BLOCK)
_EXTENSION_LIMIT = 1 << 20  # of one pax header or long name, as in Go: nothing in it is a file's content
_XATTR = b"SCHILY.xattr."
_LARGEST_ID = (1 << 32) - 2  # the one above stands for none
_SPARSE_LIMIT = 1 << 20  # pieces of one sparse file
_FILES = (b"0", b"\0", b"7", b"S")
_NO_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")


@dataclass(slots=True)
class Member:
    """One entry of an archive.

    ``kind`` is tar's type flag: ``b"0"`` a file, 1 a hard link, 2 a symlink, 3 and 4 devices, 5 a directory, 6 a FIFO.
    ``size`` is that of the stored content; of a sparse file, ``pieces`` are (offset, length) of what is stored and
    ``whole`` is the size of the file.
    """

    name: str
    kind: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    pieces: list[tuple[int, int]] | None = None
    whole: int = 0


class Reader:
    """The members of an archive that comes in pieces; between two of them, ``content`` reads the first one's."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._left = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member
        for _ in self._pieces:  # what follows the end belongs to the stream, whose digest somebody may take
            pass

    def content(self) -> Iterator[memoryview]:
        """What is left of the current member's stored content."""
        while self._left:
            part = self._some(self._left)
            self._left -= len(part)
            yield part

    def _some(self, most: int) -> memoryview:
        while not self._piece:
            self._piece = memoryview(self._following())
        part, self._piece = self._piece[:most], self._piece[most:]
        return part

    def _following(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise Broken("the archive ends too early") from None

    def _take(self, count: int) -> bytes:
        if len(self._piece) >= count:
            part, self._piece = self._piece[:count], self._piece[count:]
            return bytes(part)
        found = bytearray()
        while len(found) < count:
            found += self._some(count - len(found))
        return bytes(found)

    def _block(self) -> bytes | None:
        """The next header; ``None`` at the end, which is a block of zeros or simply no more."""
        while not self._piece:
            try:
                self._piece = memoryview(next(self._pieces))
            except StopIteration:
                return None
        block = self._take(BLOCK)
        return None if block == _ZEROS else block

    def _skip(self) -> None:
        for _ in self.content():
            pass
        self._take(self._padding)
        self._padding = 0

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _extension(self, size: int) -> bytes:
        if size > _EXTENSION_LIMIT:
            raise Broken(f"a header of {size} bytes is larger than any name or attribute can be")
        data = self._take(size)
        self._take(-size % BLOCK)
        return data

    def _next(self) -> Member | None:
        self._skip()
        records: dict[bytes, bytes] = {}
        sparse: list[bytes] = []
        name = link = None
        while (block := self._block()) is not None:
            _check(block)
            kind, size = block[156:157], _number(block[124:136])
            if size < 0:
                raise Broken("a member has a negative size")
            if kind in (b"x", b"X"):
                records, sparse = _records(self._extension(size))
            elif kind == b"g":
                self._global.update(_records(self._extension(size))[0])
            elif kind == b"L":
                name = _until_nul(self._extension(size))
            elif kind == b"K":
                link = _until_nul(self._extension(size))
            else:
                return self._member(block, kind, size, {**self._global, **records}, sparse, name, link)
        if records or name or link:
            raise Broken("the archive ends after an extended header, before the member that it is for")
        return None

    def _member(
        self,
        block: bytes,
        kind: bytes,
        size: int,
        records: dict[bytes, bytes],
        sparse: list[bytes],
        name: bytes | None,
        link: bytes | None,
    ) -> Member:
        if name is None:
            name = _name(block)
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or name
        link = records.get(b"linkpath") or link or _until_nul(block[157:257])
        if value := records.get(b"size"):
            size = _decimal(value)
        if kind in _NO_CONTENT:
            size = 0
        if kind == b"\0" and name.endswith(b"/"):  # how the tar of 1979 wrote directories
            kind = b"5"
        member = Member(
            name=name.decode("utf-8", "surrogateescape"),
            kind=b"0" if kind in _FILES else kind,
            mode=_number(block[100:108]) & 0o7777,
            uid=_decimal(records[b"uid"]) if records.get(b"uid") else _number(block[108:116]),
            gid=_decimal(records[b"gid"]) if records.get(b"gid") else _number(block[116:124]),
            size=size,
            mtime_ns=_time(records[b"mtime"]) if records.get(b"mtime") else _number(block[136:148]) * 10**9,
            link=link.decode("utf-8", "surrogateescape"),
        )
        if not (0 <= member.uid <= _LARGEST_ID and 0 <= member.gid <= _LARGEST_ID):
            raise Broken(f"{member.name}: there is no owner {member.uid}:{member.gid}")
        if "\0" in member.name or "\0" in member.link:
            raise Broken("a name has a zero byte in it")
        if kind in (b"3", b"4"):
            member.major, member.minor = _number(block[329:337]), _number(block[337:345])
        if any(key.startswith(_XATTR) for key in records):
            member.xattrs = {
                key[len(_XATTR) :].decode("utf-8", "surrogateescape"): value
                for key, value in records.items()
                if key.startswith(_XATTR)
            }
        self._begin(member.size)
        if kind == b"S":
            self._old_sparse(member, block)
        elif records.keys() & {b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"}:
            self._pax_sparse(member, records, sparse)
        return member

    # -- sparse files -------------------------------------------------------------------------------------------------

    def _old_sparse(self, member: Member, block: bytes) -> None:
        fields, more = block[386:482], block[482]
        member.whole = _number(block[483:495])
        left, padding = self._left, self._padding
        while more:
            following = self._take(BLOCK)
            fields, more = fields + following[:504], following[504]
            if len(fields) > _SPARSE_LIMIT:
                raise Broken(f"{member.name}: a sparse file of too many pieces")
        self._left, self._padding = left, padding
        numbers = [_number(fields[at : at + 12]) for at in range(0, len(fields), 12) if fields[at]]
        _place_pieces(member, numbers)

    def _pax_sparse(self, member: Member, records: dict[bytes, bytes], sparse: list[bytes]) -> None:
        member.whole = _decimal(records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size") or b"0")
        if records.get(b"GNU.sparse.major") == b"1":
            numbers = self._leading_map(member)
        elif value := records.get(b"GNU.sparse.map"):
            numbers = [_decimal(part) for part in value.split(b",")]
        else:
            numbers = [_decimal(value) for value in sparse]
        _place_pieces(member, numbers)

    def _leading_map(self, member: Member) -> list[int]:
        """Version 1.0 has the map in front of the content: numbers, one a line, padded to a block."""
        lines: list[bytes] = []
        rest, wanted = b"", 1
        while len(lines) < wanted:
            if self._left < BLOCK:
                raise Broken(f"{member.name}: the map of a sparse file ends too early")
            self._left -= BLOCK
            *found, rest = (rest + self._take(BLOCK)).split(b"\n")
            lines += found
            if lines:
                wanted = 1 + 2 * _decimal(lines[0])
                if wanted > _SPARSE_LIMIT:
                    raise Broken(f"{member.name}: a sparse file of too many pieces")
        member.size = self._left
        return [_decimal(line) for line in lines[1:wanted]]


def _place_pieces(member: Member, numbers: list[int]) -> None:
    pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > member.whole:
            raise Broken(f"{member.name}: the pieces of a sparse file overlap, or lie outside of it")
        end = offset + length
    if sum(length for _, length in pieces) != member.size or len(numbers) % 2:
        raise Broken(f"{member.name}: the pieces of a sparse file are not what is stored of it")
    member.pieces = pieces


def _check(block: bytes) -> None:
    try:
        told = _number(block[148:156])
    except Broken:
        told = -1
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    if told != plain:
        high = sum(1 for byte in (*block[:148], *block[156:]) if byte > 127)
        if told != plain - 256 * high:  # some old programs summed signed bytes
            raise Broken("bad checksum of a header: this is no tar, or it is damaged")


def _number(data: bytes) -> int:
    """An octal number, or a binary one with the highest bit set (GNU, star)."""
    if data[0] & 0x80:
        value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        return value - (1 << (8 * len(data) - 1)) if data[0] & 0x40 else value
    text = _until_nul(data).strip()
    if not text:
        return 0
    if not text.isdigit():  # int() takes signs and underscores too
        raise Broken(f"{text!r} is no number of a tar header")
    try:
        return int(text, 8)
    except ValueError:
        raise Broken(f"{text!r} is no number of a tar header") from None


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise Broken(f"{text[:40]!r} is no number of an extended header")
    return int(text)


def _time(text: bytes) -> int:
    """Seconds with a fraction, as nanoseconds."""
    whole, _, fraction = text.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    nanoseconds = _decimal(whole.lstrip(b"-") or b"0") * 10**9 + _decimal(fraction[:9].ljust(9, b"0"))
    return sign * nanoseconds


def _until_nul(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _name(block: bytes) -> bytes:
    name = _until_nul(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:  # GNU has other things there
        return _until_nul(block[345:500]) + b"/" + name
    return name


def _records(data: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The records of a pax header; and, in their order, those of sparse files of version 0.0, which repeat."""
    found: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = _decimal(data[at:space]) if space > at else 0
        record = data[space + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if not length or at + length > len(data) or not equals or not record.endswith(b"\n"):
            raise Broken("an extended header is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        found[key] = value
        at += length
    return found, sparse
