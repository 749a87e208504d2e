"""Images of the store to registries and back: which blobs are needed, several at once, each fetched by one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from pytest_capsule.errors import ContentMismatch, ImageNotFound, MalformedImage, RegistryError, UsageError
from pytest_capsule.oci.config import ImageConfig
from pytest_capsule.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Index, Manifest, find_manifest, parse_manifest
from pytest_capsule.oci.platform import Platform
from pytest_capsule.oci.reference import Reference
from pytest_capsule.registry.client import Client, Document, Repository
from pytest_capsule.registry.settings import RegistrySettings
from pytest_capsule.registry.upload import Source
from pytest_capsule.store.image import Image, Packed
from pytest_capsule.store.packing import Packing, check_agreement, check_layers
from pytest_capsule.store.store import Store

# Docker's --max-concurrent-downloads; for uploads it has 5, which no slower registry likes.
_AT_ONCE = 3
_PATIENCE = 0.2  # seconds
_NEIGHBOURS = 3
# A Content-Type that says nothing of what kind of manifest it is.
_TELLING_TYPES = (*MANIFEST_TYPES, *INDEX_TYPES)

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class TransferEvent:
    """What a pull or a push tells while it goes on, in Docker's words.

    ``status`` is "Downloading", "Pull complete", "Pushed" and so on; ``layer`` the twelve digits that Docker shows of a
    layer, "" where the whole image is meant. ``done`` of ``total`` bytes are here (or there); both 0 where none count.
    """

    status: str
    layer: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact of a registry; ``fetch`` has the blob of a layer in the store."""

    manifest: Manifest
    config: bytes
    fetch: Callable[[Descriptor], None]


Tell = Callable[[TransferEvent], object]
Watching = Callable[[Path], AbstractContextManager[Callable[[], None]]]
"""Begins to read a file that is being written; to be told whenever there is more."""


class Distribution:
    """Pulls and pushes for one store; safe to use from any thread."""

    def __init__(self, store: Store, packing: Packing, client: Client) -> None:
        self._store = store
        self._content = store.content
        self._packing = packing
        self._client = client

    @classmethod
    def of(cls, store: Store, packing: Packing, settings: RegistrySettings) -> Distribution:
        """One that speaks to registries as ``settings`` and the environment say."""
        return cls(store, packing, Client(settings))

    # -- pull ---------------------------------------------------------------------------------------------------------

    def pull(self, reference: Reference, platform: Platform, tell: Tell) -> Image:
        """The image that the registry has under ``reference`` for ``platform``.

        ``ImageNotFound`` where the registry has none, ``RegistryError`` for all else.
        """
        repository, tell = self._client.repository(reference, "pull"), _one_at_a_time(tell)
        before = self._store.find(str(reference))
        version = reference.digest or reference.tag or ""
        tell(TransferEvent(f"{reference.tag or reference.digest}: Pulling from {reference.path}"))
        with _told_of(reference):
            document = _found(repository, version)
            descriptor, manifest = self._manifest_of(repository, document, platform)
            check_layers(manifest)
            self._fetch_layers(repository, manifest, tell)
            image = self._packing.unpack(descriptor)
        self._remember(reference, (layer.digest for layer in manifest.layers))
        self._store.note_digest(manifest.config.digest, f"{reference.familiar_name}@{document.digest}")
        tell(TransferEvent(f"Digest: {document.digest}"))
        is_new = before is None or before.id != image.id
        what = "Downloaded newer image for" if is_new else "Image is up to date for"
        tell(TransferEvent(f"Status: {what} {reference.familiar}"))
        return image

    def _manifest_of(
        self, repository: Repository, document: Document, platform: Platform
    ) -> tuple[Descriptor, Manifest]:
        """The manifest for a platform, through indexes; all of them are in the store then."""
        served = Descriptor(document.media_type, document.digest, len(document.data))

        def read(descriptor: Descriptor) -> Manifest | Index:
            one = document if descriptor is served else repository.manifest(descriptor.digest)
            if len(one.data) != descriptor.size:
                raise MalformedImage(
                    f"{descriptor.digest} has {len(one.data)} bytes and not {descriptor.size}", document="index"
                )
            return self._keep(one)

        return find_manifest(served, platform, read, reference=repository.reference.familiar)

    def _keep(self, document: Document) -> Manifest | Index:
        served_as = document.media_type if document.media_type in _TELLING_TYPES else None
        found = parse_manifest(document.data, served_as)
        with self._content.write(document.digest, len(document.data)) as blob:
            blob.write(document.data)
        return found

    def _fetch_layers(self, repository: Repository, manifest: Manifest, tell: Tell) -> None:
        """Fetch the blobs, and unpack each layer as soon as it is there."""
        with self._content.lock(manifest.config.digest):
            if not self._content.has(manifest.config.digest):
                with self._content.write(manifest.config.digest, manifest.config.size) as blob:
                    blob.write(repository.document(manifest.config))
        config = ImageConfig.from_json(self._content.read(manifest.config.digest))
        check_agreement(manifest, config)
        pairs = list(dict(zip(manifest.layers, config.diff_ids, strict=True)).items())
        for layer, _ in pairs:
            tell(TransferEvent("Pulling fs layer", layer.digest.short))

        def fetch(pair: tuple[Descriptor, Digest], stopped: threading.Event) -> None:
            layer, diff_id = pair
            unpacking = partial(self._packing.unpacking, layer, diff_id)
            was_here = self._fetch(repository, layer, tell, stopped, unpacking)
            if not stopped.is_set():
                self._packing.unpack_layer(layer, diff_id)
                tell(TransferEvent("Already exists" if was_here else "Pull complete", layer.digest.short))

        _all_at_once(fetch, pairs)

    def _fetch(
        self, repository: Repository, layer: Descriptor, tell: Tell, stopped: threading.Event, watching: Watching
    ) -> bool:
        """Have the blob of a layer in the store; whether it was there before, or another process fetched it.

        What an earlier download has left is taken up, and fetched anew where it turns out to be damaged.
        """
        with self._content.lock(layer.digest):
            if self._content.has(layer.digest):
                return True
            begun = self._content.begun(layer.digest)
            if not (begun.exists() and self._is_completed(repository, layer, tell, stopped)):
                begun.touch()
                with watching(begun) as more:
                    self._download(repository, layer, tell, stopped, more)
        return False

    def _is_completed(self, repository: Repository, layer: Descriptor, tell: Tell, stopped: threading.Event) -> bool:
        """Fetch what is missing of a blob; whether that gave it. Nobody reads it meanwhile: it may be wrong."""
        try:
            self._download(repository, layer, tell, stopped, _nothing)
        except ContentMismatch:
            return False
        return True

    def _download(
        self,
        repository: Repository,
        layer: Descriptor,
        tell: Tell,
        stopped: threading.Event,
        more: Callable[[], None],
    ) -> None:
        with self._content.resume(layer.digest, layer.size) as blob:
            for piece in repository.blob(layer, blob.written) if blob.written < layer.size else ():
                if stopped.is_set():
                    raise _Stopped
                blob.write(piece)
                blob.flush()
                more()
                tell(TransferEvent("Downloading", layer.digest.short, blob.written, layer.size))
        tell(TransferEvent("Download complete", layer.digest.short))

    def artifact(self, reference: Reference) -> Artifact:
        """An artifact that is no image: its manifest and config. ``ImageNotFound``, ``RegistryError``."""
        repository = self._client.repository(reference, "pull")
        with _told_of(reference):
            document = _found(repository, reference.digest or reference.tag or "")
            manifest = Manifest.from_json(document.data)
            return Artifact(manifest, repository.document(manifest.config), partial(self._fetch_quietly, repository))

    def _fetch_quietly(self, repository: Repository, layer: Descriptor) -> None:
        self._fetch(repository, layer, lambda event: None, threading.Event(), lambda path: nullcontext(_nothing))

    # -- push ---------------------------------------------------------------------------------------------------------

    def push(self, image: Image, reference: Reference, tell: Tell) -> Digest:
        """Bring an image to a registry, under a tag; returns the digest of its manifest there.

        What was pulled goes out as it came in: with the same digests.
        """
        if reference.digest is not None or reference.tag is None:
            raise UsageError(f"push to {reference.familiar}: a digest is what comes out", hint="push to a tag")
        repository, tell = self._client.repository(reference, "push"), _one_at_a_time(tell)
        tell(TransferEvent(f"The push refers to repository [{reference.name}]"))
        packed = image.packed()
        if index := self._index_of(packed):
            only = f"Only the image for {packed.config.platform} is pushed"
            tell(TransferEvent(f"{only}, not the index {index} that it came from"))
        pairs = list(dict(zip(packed.manifest.layers, packed.config.diff_ids, strict=True)).items())
        for _, diff_id in pairs:
            tell(TransferEvent("Preparing", diff_id.short))

        def send(pair: tuple[Descriptor, Digest], stopped: threading.Event) -> None:
            layer, diff_id = pair
            if not stopped.is_set():
                self._send(repository, layer, diff_id.short, tell, stopped)

        _all_at_once(send, pairs)
        repository.push_blob(self._source(packed.manifest.config))
        digest = repository.push_manifest(packed.data, packed.descriptor.media_type, reference.tag)
        self._remember(reference, (layer.digest for layer in packed.manifest.layers))
        self._store.note_digest(packed.manifest.config.digest, f"{reference.familiar_name}@{digest}")
        tell(TransferEvent(f"{reference.tag}: digest: {digest} size: {len(packed.data)}"))
        return digest

    def _index_of(self, packed: Packed) -> str:
        """The index that an image was pulled through, ``NAME@DIGEST``, as long as the store has it; else ""."""
        for name in self._store.digests(str(packed.manifest.config.digest)):
            digest = Digest.parse(name.rpartition("@")[2])
            if digest == packed.descriptor.digest or not self._content.has(digest):
                continue
            if isinstance(parse_manifest(self._content.read(digest)), Index):
                return name
        return ""

    def push_artifact(self, reference: Reference, manifest: Manifest) -> Digest:
        """Bring an artifact whose blobs are in the store to a registry, under a tag."""
        repository = self._client.repository(reference, "push")

        def send(blob: Descriptor, stopped: threading.Event) -> None:
            self._send(repository, blob, blob.digest.short, lambda event: None, stopped)

        _all_at_once(send, (manifest.config, *manifest.layers))
        return repository.push_manifest(manifest.to_json(), manifest.media_type, reference.tag)

    def _send(self, repository: Repository, layer: Descriptor, name: str, tell: Tell, stopped: threading.Event) -> None:
        def read(done: int) -> None:
            if stopped.is_set():
                raise _Stopped
            tell(TransferEvent("Pushing", name, done, layer.size))

        neighbours = self._neighbours(repository.reference, layer.digest)
        outcome = repository.push_blob(self._source(layer, read), mount_from=neighbours)
        said = {"exists": "Layer already exists", "pushed": "Pushed"}
        tell(TransferEvent(said.get(outcome, outcome.capitalize()), name))

    def _source(self, descriptor: Descriptor, read: Callable[[int], None] = lambda done: None) -> Source:
        return Source(descriptor, lambda offset, size: _Part(self._content.open(descriptor.digest), offset, size, read))

    # -- where blobs are known to be ----------------------------------------------------------------------------------

    def _remember(self, reference: Reference, digests: Iterable[Digest]) -> None:
        """Note that the repository has these blobs: another of the same registry can take them from there."""
        for digest in digests:
            known = [name for name in self._repositories(digest) if name != reference.name]
            self._store.remember(_memory_of(digest), {"repositories": [reference.name, *known][:_NEIGHBOURS]})

    def _neighbours(self, reference: Reference, digest: Digest) -> list[str]:
        prefix = f"{reference.domain}/"
        own = [name for name in self._repositories(digest) if name.startswith(prefix) and name != reference.name]
        return [name.removeprefix(prefix) for name in own]

    def _repositories(self, digest: Digest) -> list[str]:
        return list(self._store.memory(_memory_of(digest)).get("repositories", []))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _Stopped(Exception):
    """Another layer has failed: this one is not needed any more."""


class _Part:
    """A part of a file, which it closes; ``told`` hears how far in the whole file each reading has come."""

    def __init__(self, file: IO[bytes], offset: int, size: int, told: Callable[[int], None]) -> None:
        self._file = file
        self._file.seek(offset)
        self._left = size
        self._told = told

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self._told(self._file.tell())
        return data

    def close(self) -> None:
        self._file.close()


def _nothing() -> None:
    """Nobody reads what comes while it comes."""


def _one_at_a_time(tell: Tell) -> Tell:
    lock = threading.Lock()

    def told(event: TransferEvent) -> None:
        with lock:
            tell(event)

    return told


def _memory_of(digest: Digest) -> str:
    return f"repositories-{digest.hex}"


def _found(repository: Repository, version: str | Digest) -> Document:
    try:
        return repository.manifest(version)
    except RegistryError as error:
        if error.status != 404:
            raise
        raise ImageNotFound(error.message, reference=repository.reference.familiar, hint=error.hint) from None


@contextmanager
def _told_of(reference: Reference) -> Iterator[None]:
    """What is wrong with the image itself is told with its name."""
    try:
        yield
    except (MalformedImage, ContentMismatch) as error:
        raise RegistryError(
            f"pull of {reference.familiar}: registry {reference.domain}: {error.message}",
            registry=reference.domain,
            hint=error.hint or "the image was damaged where it was made or kept: have it pushed anew",
        ) from error


def _all_at_once(work: Callable[[_Item, threading.Event], None], items: Sequence[_Item]) -> None:
    """Do some work for several items at a time; the first failure stops it all."""
    stopped = threading.Event()
    with ThreadPoolExecutor(_AT_ONCE, "capsule-registry") as pool:
        try:
            futures = [pool.submit(work, item, stopped) for item in items]
            going: Collection[Future[None]] = futures
            while going:  # looking up now and then: a Ctrl-C just before a wait without an end is heard behind it
                ended, going = wait(going, _PATIENCE, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
