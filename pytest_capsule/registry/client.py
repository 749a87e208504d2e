"""Repositories of registries: manifests and blobs read, checked, and written."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pytest_capsule.errors import MalformedImage, RegistryError
from pytest_capsule.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.reference import Reference
from pytest_capsule.registry.auth import IdentityTokens
from pytest_capsule.registry.credentials import find_credentials
from pytest_capsule.registry.download import Download
from pytest_capsule.registry.host import Call, Host
from pytest_capsule.registry.patience import Patience
from pytest_capsule.registry.settings import Endpoint, RegistrySettings
from pytest_capsule.registry.transport import ConnectionFailed, Response, Transport
from pytest_capsule.registry.trust import Trust
from pytest_capsule.registry.upload import Source, Upload

# "An image manifest may be up to 4 MB" (distribution-spec); no config is larger.
LARGEST_DOCUMENT = 4 << 20
# All that ``parse_manifest`` reads, and what Docker gave before, which is refused by name.
_ACCEPTED = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index as served: its bytes, their digest, and the media type that it came with ("": none)."""

    data: bytes
    digest: Digest
    media_type: str


class Client:
    """Speaks to registries, with connections, tokens and what it has found out kept. Safe from any thread."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._settings = settings
        self._environment = os.environ if environment is None else environment
        self._home = Path(self._environment.get("HOME") or Path.home())
        self._transport = Transport(settings, Trust(self._environment, self._home), self._environment, timeout=timeout)
        self._patience = patience or Patience()
        self._identities = IdentityTokens()
        self._hosts: dict[tuple[tuple[Endpoint, ...], str], Host] = {}
        self._lock = threading.Lock()

    def repository(self, reference: Reference, purpose: str) -> Repository:
        """The repository of a reference; ``purpose`` ("pull", "push") is what errors begin with."""
        own = self._host(self._settings.own_place(reference.domain), reference.path)
        mirrors = [self._host(place, reference.path) for place in self._settings.mirror_places(reference.domain)]
        return Repository(reference, f"{purpose} of {reference.familiar}", own, (*mirrors, own), self._patience)

    def _host(self, place: tuple[Endpoint, ...], path: str) -> Host:
        """One for each repository: credentials may be for that one only."""
        with self._lock:
            if (place, path) not in self._hosts:
                self._hosts[place, path] = Host(
                    place,
                    self._transport,
                    self._settings,
                    self._patience,
                    lambda account: find_credentials(account, path, self._environment, self._home),
                    self._identities,
                )
            return self._hosts[place, path]

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


class Repository:
    """One repository. Reading tries the mirrors before the registry itself; writing is to that only."""

    def __init__(
        self, reference: Reference, subject: str, own: Host, hosts: Sequence[Host], patience: Patience
    ) -> None:
        self.reference = reference
        self._subject = subject
        self._own = own
        self._hosts = hosts
        self._patience = patience
        self._path = f"/v2/{reference.path}"

    # -- reading ------------------------------------------------------------------------------------------------------

    def manifest(self, version: str | Digest) -> Document:
        """What the registry has under a tag or a digest, checked; ``RegistryError`` of status 404 where nothing is."""
        call = self._read_call("GET", f"/manifests/{version}", headers={"Accept": _ACCEPTED})
        return self._first(lambda host: _read_document(host, call, version if isinstance(version, Digest) else None))

    def digest(self, tag: str) -> Digest | None:
        """The digest of what is under a tag, asked for without fetching it; ``None`` if the registry does not say."""
        call = self._read_call("HEAD", f"/manifests/{tag}", headers={"Accept": _ACCEPTED})
        with self._first(lambda host: host.call(call)) as response:
            return _digest_of(response)

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob (a config), whole and checked."""
        if descriptor.size > LARGEST_DOCUMENT:
            call = self._read_call("GET", f"/blobs/{descriptor.digest}")
            raise self._own.wrong(call, self._path, f"a config of {descriptor.size} bytes is larger than any may be")
        return b"".join(self.blob(descriptor))

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """A blob, piece by piece from ``offset`` on, taken up again where it broke off.

        Only when the last piece has been taken is it known to be right: ``RegistryError`` comes then if it is not. With
        an ``offset`` that is for the caller to see, who has all of it.
        """
        call = self._read_call("GET", f"/blobs/{descriptor.digest}", expect=(200, 206))
        download = Download(call, descriptor, self._patience, offset)
        for position, host in enumerate(self._hosts):
            try:
                yield from download.run(host)
                return
            except RegistryError:
                if position == len(self._hosts) - 1 or download.is_wrong:
                    raise

    def _read_call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, expect: Sequence[int] = (200,)
    ) -> Call:
        scope = f"repository:{self.reference.path}:pull"
        return Call(self._subject, method, f"{self._path}{path}", (scope,), expect, headers or {})

    def _first(self, ask: Callable[[Host], _T]) -> _T:
        """The answer of the first place that has one."""
        for host in self._hosts[:-1]:
            with contextlib.suppress(RegistryError):
                return ask(host)
        return ask(self._own)

    # -- writing ------------------------------------------------------------------------------------------------------

    def push_blob(self, source: Source, *, mount_from: Sequence[str] = ()) -> str:
        """See to it that the registry has a blob: "exists", "mounted from REPOSITORY", or "pushed".

        ``mount_from`` are other repositories of the same registry that may have it already.
        """
        return Upload(self._own, self._subject, self.reference.path, source, self._patience).run(mount_from)

    def push_manifest(self, data: bytes, media_type: str, tag: str | None = None) -> Digest:
        """Put a manifest under its digest, or under a tag; its blobs must be there. Returns its digest."""
        digest = Digest.of(data)
        call = Call(
            self._subject,
            "PUT",
            f"{self._path}/manifests/{tag or digest}",
            (f"repository:{self.reference.path}:pull,push",),
            (200, 201, 202),
            {"Content-Type": media_type},
            data,
        )
        with self._own.call(call) as response:
            given = _digest_of(response)
            if given is not None and given.algorithm == digest.algorithm and given != digest:
                raise self._own.wrong(call, response.url, f"it took the manifest for {given}, and it is {digest}")
        return digest


def _read_document(host: Host, call: Call, wanted: Digest | None) -> Document:
    with host.call(call) as response:
        try:
            data = response.read(LARGEST_DOCUMENT + 1)
        except ConnectionFailed as failure:
            raise host.wrong(call, response.url, failure.reason) from None
        media_type = response.headers.get_content_type() if response.headers.get("Content-Type") else ""
        promised = wanted or _digest_of(response)
        if len(data) > LARGEST_DOCUMENT:
            raise host.wrong(call, response.url, f"its manifest is larger than {LARGEST_DOCUMENT} bytes")
        digest = Digest.of(data, promised.algorithm if promised else "sha256")
        if promised is not None and digest != promised:
            raise host.wrong(call, response.url, f"its manifest is not {promised}, as it has to be, but {digest}")
        if media_type.startswith("text/html"):
            raise host.wrong(call, response.url, "it answered with a web page, not with a manifest")
        return Document(data, digest, media_type)


def _digest_of(response: Response) -> Digest | None:
    with contextlib.suppress(MalformedImage):
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    return None
