"""One blob on its way here: checked as it flows, and taken up again where it broke off."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.descriptor import Descriptor
from pytest_capsule.registry.host import Call, Host
from pytest_capsule.registry.patience import Patience
from pytest_capsule.registry.transport import ConnectionFailed, Response

# Who sends at least this much before the connection breaks is getting on; all others run out of attempts.
_PROGRESS = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class Download:
    """A blob being read, from one host or, where that fails, the rest from another.

    Where the first ``offset`` bytes were here before, whoever has them checks the digest of the whole. ``is_wrong``:
    what came is not the blob, so that nobody can help any more.
    """

    def __init__(self, call: Call, descriptor: Descriptor, patience: Patience, offset: int = 0) -> None:
        self._call = call
        self._descriptor = descriptor
        self._patience = patience
        self._hash = hashlib.new(descriptor.digest.algorithm, usedforsecurity=False)
        self._offset = offset
        self._is_whole = not offset
        self.is_wrong = False

    def run(self, host: Host) -> Iterator[bytes]:
        """What is missing, piece by piece; the digest is checked at the end."""
        failures = 0
        while True:
            before = self._offset
            with host.call(self._resumed_call()) as response:
                try:
                    yield from self._rest(host, response)
                    break
                except ConnectionFailed as failure:
                    failures = 1 if self._offset - before >= _PROGRESS else failures + 1
                    error = host.wrong(self._call, response.url, f"{failure.reason}, {self._progress()}")
            if not self._patience.pause(failures):
                raise error
        digest = f"{self._descriptor.digest.algorithm}:{self._hash.hexdigest()}"
        if self._is_whole and digest != str(self._descriptor.digest):
            raise self._wrong(host, response.url, f"what it sent is not {self._descriptor.digest} but {digest}")

    def _resumed_call(self) -> Call:
        if not self._offset:
            return self._call
        return replace(self._call, headers={**self._call.headers, "Range": f"bytes={self._offset}-"})

    def _rest(self, host: Host, response: Response) -> Iterator[bytes]:
        """The pieces of a response that were not here before; ``ConnectionFailed`` if it has too few."""
        skip = self._already_here(host, response)
        for chunk in response.chunks():
            piece = chunk[skip:]
            skip = max(0, skip - len(chunk))
            self._offset += len(piece)
            if self._offset > self._descriptor.size:
                reason = f"it sends more than the {self._descriptor.size} bytes of {self._descriptor.digest}"
                raise self._wrong(host, response.url, reason)
            self._hash.update(piece)
            if piece:
                yield piece
        if self._offset < self._descriptor.size:
            raise ConnectionFailed("the answer ended early")

    def _already_here(self, host: Host, response: Response) -> int:
        """How much at the response's beginning was here before: all of it where the registry knows no ranges."""
        if response.status == 200:
            return self._offset
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) > self._offset:
            raise host.wrong(self._call, response.url, "it sent another range of the blob than it was asked for")
        return self._offset - int(found[1])

    def _wrong(self, host: Host, url: str, reason: str) -> RegistryError:
        self.is_wrong = True
        return host.wrong(self._call, url, reason)

    def _progress(self) -> str:
        return f"after {self._offset} of {self._descriptor.size} bytes of {self._descriptor.digest}"
