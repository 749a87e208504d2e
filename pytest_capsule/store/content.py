"""Blobs by digest: what images consist of in OCI form. Every blob here has been read once and has its digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TypeVar

from pytest_capsule.errors import ContentMismatch, StoreError
from pytest_capsule.oci.digest import Digest
from pytest_capsule.store.claims import Claims

_LARGEST_DOCUMENT = 64 << 20
_T = TypeVar("_T")
_CHUNK = 1 << 20


class BlobWriter:
    """A blob on its way into the store: ``write`` its bytes in order. ``written`` is how many there were."""

    def __init__(self, file: IO[bytes], digest: Digest | None) -> None:
        self._file = file
        self._hash = hashlib.new(digest.algorithm if digest else "sha256", usedforsecurity=False)
        self.written = 0

    def take_up(self) -> None:
        """Go on behind what the file has already, which is read and hashed again."""
        while data := self._file.read(_CHUNK):
            self._hash.update(data)
            self.written += len(data)

    def flush(self) -> None:
        """Let everybody who reads the file see what was written."""
        self._file.flush()

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes, which are hashed on the way."""
        self._hash.update(data)
        self._file.write(data)
        self.written += len(data)

    def start_over(self) -> None:
        """Forget what was written, for a source that can only begin again."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.new(self._hash.name, usedforsecurity=False)
        self.written = 0

    @property
    def digest(self) -> Digest:
        """The digest of what was written until now."""
        return Digest(self._hash.name, self._hash.hexdigest())


class Content:
    """The blobs of a store, in ``root/ALGORITHM/HEX``; any number of threads and processes may use them at once.

    ``scratch`` is this engine's own folder, from which a blob appears by a rename; ``begun`` is where those are that no
    download has finished yet. ``lock(name)`` holds a lock against everybody else. A blob that was asked for or written
    through this value stays until the engine is closed.
    """

    def __init__(
        self,
        root: Path,
        scratch: Path,
        begun: Path,
        claims: Claims,
        lock: Callable[..., AbstractContextManager[None]],
    ) -> None:
        self.root = root
        self._scratch = scratch
        self._begun = begun
        self._claims = claims
        self._lock = lock

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.root / digest.algorithm / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there; it then stays for as long as this engine."""
        self._claims.take([claim_of(digest)])
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """The bytes of a blob that is there."""
        return self._of_blob(digest, lambda path: path.stat().st_size)

    def open(self, digest: Digest) -> IO[bytes]:
        """A blob that is there, to be read."""
        self._claims.take([claim_of(digest)])
        return self._of_blob(digest, lambda path: path.open("rb"))

    def read(self, digest: Digest) -> bytes:
        """All of a small blob: a manifest or a config."""
        if self.size(digest) > _LARGEST_DOCUMENT:
            raise StoreError(f"blob {digest} is larger than any manifest or config", path=str(self.path(digest)))
        with self.open(digest) as file:
            return file.read()

    def lock(self, digest: Digest) -> AbstractContextManager[None]:
        """Held while a blob is fetched, so that two processes that need it fetch it once: look again once you have it.

        ::

            with content.lock(digest):
                if not content.has(digest):
                    with content.write(digest, size) as blob:
                        for chunk in response:
                            blob.write(chunk)
        """
        return self._lock(claim_of(digest))

    @contextlib.contextmanager
    def write(self, digest: Digest | None = None, size: int | None = None) -> Iterator[BlobWriter]:
        """Write a blob; it is in the store when the block ends without an error.

        With ``digest`` and ``size`` given, ``ContentMismatch`` for other bytes, and nothing is kept.
        """
        path = self._scratch / f"blob-{secrets.token_hex(8)}"
        try:
            with path.open("xb") as file:
                writer = BlobWriter(file, digest)
                yield writer
            _check(writer, digest, size)
            self.adopt(path, writer.digest)
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def resume(self, digest: Digest, size: int) -> Iterator[BlobWriter]:
        """Write a blob as ``write`` does, behind what a download of it has left that was broken off or killed.

        ``lock`` is held meanwhile. What is written stays for the next one when the block ends with an error, unless it
        is wrong (``ContentMismatch``: only all of it has a digest) or the disk is full (``StoreError``).
        """
        path = self.begun(digest)
        try:
            path.touch()
            with path.open("r+b") as file:
                writer = BlobWriter(file, digest)
                writer.take_up()
                if writer.written > size:
                    writer.start_over()
                yield writer
            _check(writer, digest, size)
        except ContentMismatch:
            path.unlink(missing_ok=True)
            raise
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StoreError(f"{path} cannot be written: {error.strerror}", path=str(path)) from None
        self.adopt(path, digest)

    def begun(self, digest: Digest) -> Path:
        """Where a download of a blob keeps what it has."""
        return self._begun / claim_of(digest)

    def forget_begun(self, trash: Path, before: float) -> int:
        """Move what unfinished downloads have left since before that time (since 1970) into the folder ``trash``, and
        return its bytes. Those that go on now stay."""
        freed = 0
        for path in self._begun.iterdir():
            with contextlib.suppress(TimeoutError, FileNotFoundError), self._lock(path.name, timeout=0):
                info = path.stat()
                if info.st_mtime <= before:
                    path.rename(trash / path.name)
                    freed += info.st_size
        return freed

    def add(self, data: bytes) -> Digest:
        """Keep a small blob."""
        with self.write() as blob:
            blob.write(data)
        return blob.digest

    def adopt(self, path: Path, digest: Digest) -> None:
        """Make a file on the disk of the store, whose digest is known, a blob, by rename."""
        target = self.path(digest)
        self._claims.take([claim_of(digest)])
        try:
            target.parent.mkdir(exist_ok=True)
            path.chmod(0o644)
            os.rename(path, target)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}", path=str(target)) from None

    def all(self) -> list[Digest]:
        """Every blob that is there."""
        return [Digest(folder.name, path.name) for folder in self.root.iterdir() for path in folder.iterdir()]

    def _of_blob(self, digest: Digest, function: Callable[[Path], _T]) -> _T:
        path = self.path(digest)
        try:
            return function(path)
        except FileNotFoundError:
            raise StoreError(
                f"blob {digest} is missing from the store", path=str(path), hint="pull or load the image again"
            ) from None


def _check(writer: BlobWriter, digest: Digest | None, size: int | None) -> None:
    expected, found = digest or writer.digest, writer.digest
    if size is not None and writer.written != size:
        raise ContentMismatch(
            f"blob {expected} has {writer.written} bytes and should have {size}",
            digest=str(expected),
            found=str(found),
        )
    if found != expected:
        raise ContentMismatch(
            f"what came as blob {expected} has the digest {found}", digest=str(expected), found=str(found)
        )


def claim_of(digest: Digest) -> str:
    """The name under which an engine claims a blob, locks it, and begins to fetch it."""
    return f"blob-{digest.algorithm}-{digest.hex}"
