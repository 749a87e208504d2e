"""One blob on its way to a registry: not sent if it is there, mounted if it is next door, else uploaded.

In one piece, as containerd does, which every registry takes. In chunks where it broke off (from where the registry
says that it is) or where one piece is too large. Source: distribution-spec, "Pushing Blobs".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlencode

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.descriptor import Descriptor
from pytest_capsule.registry.host import Broken, Call, Host
from pytest_capsule.registry.patience import TEMPORARY, Patience
from pytest_capsule.registry.transport import Body, Readable, Response

_CHUNK = 16 << 20
_TOO_LARGE = 413
_RECEIVED = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(frozen=True, slots=True)
class Source:
    """A blob that is here: ``open(offset, size)`` gives a file that begins there and ends after ``size`` bytes."""

    descriptor: Descriptor
    open: Callable[[int, int], Readable]


@dataclass(slots=True)
class _Session:
    """An upload that a registry has begun: where it goes on, how much it has, and the smallest chunk that it takes."""

    location: str
    received: int = 0
    smallest: int = 0


class Upload:
    """Brings one blob to one repository."""

    def __init__(self, host: Host, subject: str, path: str, source: Source, patience: Patience) -> None:
        self._host = host
        self._subject = subject
        self._path = path
        self._source = source
        self._descriptor = source.descriptor
        self._patience = patience
        self._scopes: tuple[str, ...] = (f"repository:{path}:pull,push",)
        self._in_chunks = False

    def run(self, mount_from: Sequence[str] = ()) -> str:
        """What it took: "exists", "mounted from REPOSITORY" or "pushed"."""
        if self._is_there():
            return "exists"
        session = None
        for other in mount_from:
            with contextlib.suppress(RegistryError):  # it may be nobody's business what is there
                session = self._mount(other)
                if session is None:
                    return f"mounted from {other}"
        self._upload(session)
        return "pushed"

    def _is_there(self) -> bool:
        call = self._call("HEAD", f"/v2/{self._path}/blobs/{self._descriptor.digest}", expect=(200, 404))
        with self._host.call(call) as response:
            return response.status == 200

    def _mount(self, other: str) -> _Session | None:
        """Have the registry take the blob out of another repository; an upload begins where it has none there."""
        query = urlencode({"mount": str(self._descriptor.digest), "from": other})
        call = self._call("POST", f"/v2/{self._path}/blobs/uploads/?{query}", expect=(201, 202))
        call = replace(call, scopes=(*self._scopes, f"repository:{other}:pull"))
        with self._host.call(call) as response:
            return None if response.status == 201 else self._session(call, response)

    def _begin(self) -> _Session:
        call = self._call("POST", f"/v2/{self._path}/blobs/uploads/", expect=(202,))
        with self._host.call(call) as response:
            return self._session(call, response)

    def _session(self, call: Call, response: Response) -> _Session:
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        return _Session(self._host.location(call, response), smallest=int(smallest) if smallest.isdigit() else 0)

    def _upload(self, session: _Session | None) -> None:
        """Send the blob, as often as there is patience for."""
        failures = 0
        while True:
            try:
                session = session or self._begin()
                self._send(session)
                return
            except RegistryError as error:
                if error.status == _TOO_LARGE and not self._in_chunks:
                    self._in_chunks, session = True, None
                    continue
                failures += 1
                may_do = isinstance(error, Broken) or error.status in TEMPORARY
                if not may_do or not self._patience.pause(failures):
                    raise
            if self._is_there():  # it was the answer that got lost
                return
            session = self._resumed(session)

    def _send(self, session: _Session) -> None:
        if session.received or self._in_chunks:
            self._send_chunks(session)
            self._close(session, None)
        else:
            self._close(session, self._piece(0, self._descriptor.size))

    def _send_chunks(self, session: _Session) -> None:
        size = max(_CHUNK, session.smallest) if self._in_chunks else self._descriptor.size
        while session.received < self._descriptor.size:
            length = min(size, self._descriptor.size - session.received)
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{session.received}-{session.received + length - 1}",
            }
            call = self._call("PATCH", session.location, expect=(202,), headers=headers)
            with self._host.call(replace(call, once=True, body=self._piece(session.received, length))) as response:
                session.location = self._host.location(call, response)
                session.received += length

    def _close(self, session: _Session, body: Body | None) -> None:
        """End the upload, with the whole blob if it is to be sent in one piece."""
        separator = "&" if "?" in session.location else "?"
        url = f"{session.location}{separator}{urlencode({'digest': str(self._descriptor.digest)})}"
        headers = {"Content-Type": "application/octet-stream"}
        call = self._call("PUT", url, expect=(201, 204), headers=headers)
        with self._host.call(replace(call, once=True, body=b"" if body is None else body)):
            session.received = self._descriptor.size

    def _resumed(self, session: _Session | None) -> _Session | None:
        """The upload as the registry has it now; ``None`` if it is to begin anew."""
        if session is None:
            return None
        call = self._call("GET", session.location, expect=(204,))
        with contextlib.suppress(RegistryError), self._host.call(call) as response:
            received = _RECEIVED.fullmatch(response.headers.get("Range", ""))
            end = int(received[1]) + 1 if received else 0
            if 1 < end < self._descriptor.size:  # "0-0" says none, of most registries
                return _Session(self._host.location(call, response), end, session.smallest)
        return None

    def _piece(self, offset: int, size: int) -> Body:
        return Body(size, partial(self._source.open, offset, size))

    def _call(
        self, method: str, target: str, *, expect: Sequence[int], headers: Mapping[str, str] | None = None
    ) -> Call:
        return Call(self._subject, method, target, self._scopes, expect, headers or {})
