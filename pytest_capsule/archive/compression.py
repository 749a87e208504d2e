"""Compressed streams: told apart by their first bytes, and unpacked piece by piece."""

from __future__ import annotations

import bz2
import lzma
import os
import queue
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

try:  # Python 3.14 has it; the extra ``zstd`` brings the same module to older ones
    from compression import zstd as _zstd  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    try:
        from backports import zstd as _zstd  # type: ignore[import-not-found, no-redef, unused-ignore]
    except ImportError:
        _zstd = None

_READ = 1 << 20
_WRITE = 4 << 20
_AHEAD = 4
_HARMLESS = 1 << 30
_MOST = 200


class Broken(Exception):
    """An archive or a compressed stream that is damaged, or of a kind that cannot be read here."""


class Readable(Protocol):
    """What a stream is read from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


class _Decompressor(Protocol):
    """What ``bz2``, ``lzma`` and ``zstd`` offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """``zlib`` with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(found) < max_length
        return found


def _make_zstd() -> Any:
    if _zstd is None:
        raise Broken(
            "it is compressed with zstd, which Python has from 3.14 on; install pytest-capsule[zstd] for older ones"
        )
    return _zstd.ZstdDecompressor()


_KINDS: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": ("gzip", _Gzip),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": ("zstd", _make_zstd),
}
_LONGEST = max(map(len, _KINDS))
_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, *((_zstd.ZstdError,) if _zstd else ()))


def can_read_zstd() -> bool:
    """Whether this Python has zstd."""
    return _zstd is not None


def compression_of(head: bytes) -> str:
    """How a stream that begins so is compressed: gzip, bzip2, xz or zstd; empty for none of them."""
    return next((name for magic, (name, _) in _KINDS.items() if head.startswith(magic)), "")


def unpacked(file: Readable) -> Iterator[bytes]:
    """The content of ``file`` in pieces of at most 4 MiB, decompressed if it is compressed; raises ``Broken``.

    What is compressed may give 1 GiB, and more only as long as it is not more than 200 times what was read: else it is
    taken for a decompression bomb.
    """
    head = b""
    while len(head) < _LONGEST and (more := file.read(_READ)):  # a pipe gives what it has
        head += more
    for magic, (_, make) in _KINDS.items():
        if head.startswith(magic):
            yield from _decompressed(file, head, make)
            return
    while head:
        yield head
        head = file.read(_READ)


def _decompressed(file: Readable, data: bytes, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Several streams one after another are one, as for gzip(1); zeros after the last are padding."""
    taken, given = len(data), 0
    while data.strip(b"\0"):
        stream = make()
        while not stream.eof:
            if not data and stream.needs_input:
                if not (data := file.read(_READ)):
                    raise Broken("the compressed stream ends too early")
                taken += len(data)
            try:
                found = stream.decompress(data, _WRITE)
            except _ERRORS as error:
                raise Broken(f"the compressed stream is damaged: {error}") from None
            data = b""
            given += len(found)
            if given > max(_HARMLESS, taken * _MOST):
                raise Broken(
                    f"it is a decompression bomb: {taken} bytes give {given >> 20} MiB and more, which is over {_MOST} "
                    "times as much; if it is to be so, decompress it first"
                )
            if found:
                yield found
        data = stream.unused_data
        if not data:
            data = file.read(_READ)
            taken += len(data)


class Growing:
    """A file that somebody writes meanwhile. ``news`` is a pipe: a byte in it says that there is more, its end that
    there will be no more. Closes neither."""

    def __init__(self, file: Readable, news: int) -> None:
        self._file = file
        self._news = news

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, which are waited for; none at the end."""
        while not (data := self._file.read(size)):
            if not os.read(self._news, _READ):
                return self._file.read(size)
        return data


def ahead(pieces: Iterator[bytes], see: Callable[[bytes], object]) -> Iterator[bytes]:
    """The same pieces, made in a thread a few ahead of whoever takes them; ``see`` is called there with each.

    Decompressing, hashing and writing then go on beside each other: each lets go of the interpreter while it works.
    """
    waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def work() -> None:
        end: BaseException | None = None
        try:
            for piece in pieces:
                see(piece)
                waiting.put(piece)
                if stopped.is_set():
                    return
        except BaseException as error:
            end = error
        waiting.put(end)

    thread = threading.Thread(target=work, name="capsule-unpack", daemon=True)
    thread.start()
    try:
        while isinstance(piece := waiting.get(), bytes):
            yield piece
        if piece is not None:
            raise piece
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room
            try:
                waiting.get(timeout=0.01)
            except queue.Empty:
                continue
        thread.join()
