"""Images of the store in OCI form, and images in OCI form into the store.

In the store an image is directories that an overlay stacks; in registries and archives it is a manifest, a config and
tars of its layers, each a blob by its digest. ``Packing.pack`` makes the second of the first when something asks for
it, and ``Packing.unpack`` the first of the second. What was made or read once is kept, so that an image that was pulled
is pushed with the same bytes, and a layer that several images share is packed or unpacked once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_capsule.archive import layers as archived_layers
from pytest_capsule.errors import ContentMismatch, ImageNotFound, MalformedImage, StoreError, UsageError
from pytest_capsule.oci.config import History, ImageConfig
from pytest_capsule.oci.descriptor import CONFIG_TYPES, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Index, Manifest, parse_manifest
from pytest_capsule.store.image import Image, Layer, Packed, visible
from pytest_capsule.store.kept import TICK
from pytest_capsule.store.store import Store

Call = Callable[..., Any]
"""Calls ``function(*args)`` of ``archive.layers`` by its name, where files of all owners may be touched."""

_HOST_DIRECTORIES = "io.pytest-capsule.host-directories"


@dataclass(frozen=True, slots=True)
class _Coming:
    """A blob that is being written: the descriptor of its file, and of a pipe that tells of it."""

    blob: int
    news: int


class Packing:
    """Packs and unpacks the images of one store; safe to use from any thread.

    ``call`` does the work on layers, several calls at once. ``host_directories`` are those that an image may show from
    this host: the ones of ``capsule/host``.
    """

    def __init__(
        self, store: Store, call: Call, *, parallel: int, host_directories: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self._store = store
        self._content = store.content
        self._call = call
        self._parallel = parallel
        self._host_directories = host_directories

    # -- out ----------------------------------------------------------------------------------------------------------

    def pack(self, image: Image) -> Packed:
        """The image in OCI form; its blobs are in ``Store.content`` then, and stay for as long as this engine.

        An image that was pulled or loaded gives the manifest and the blobs that it came with. Otherwise its layers are
        packed, each once: the same image gives the same bytes again.
        """
        kept = self._store.manifest_of(image)
        if kept is not None and (packed := self._kept(kept)) is not None:
            return packed
        layers = self._in_parallel(self._pack_layer, image.layers)
        config = _with_whole_history(image, tuple(Digest.parse(layer["diff_id"]) for layer in layers))
        config_data = config.to_json()
        manifest = Manifest(
            Descriptor.of(config_data, OCI_CONFIG),
            tuple(Descriptor(layer["media_type"], Digest.parse(layer["digest"]), layer["size"]) for layer in layers),
        )
        data = manifest.to_json()
        config_digest = self._content.add(config_data)
        packed = Packed(Descriptor.of(data, OCI_MANIFEST), data, manifest, config)
        self._content.add(data)
        self._keep(image, config, config_digest, packed.descriptor.digest)
        return packed

    def pack_layer(self, layer: Layer) -> tuple[Descriptor, Digest]:
        """One layer as a tar, whose blob is in ``Store.content`` then, and the tar's diff_id."""
        record = self._pack_layer(layer)
        blob = Descriptor(record["media_type"], Digest.parse(record["digest"]), record["size"])
        return blob, Digest.parse(record["diff_id"])

    def identify(self, image: Image) -> str:
        """The digest of the image's config, for which its layers are read through, each once; no tar is written."""
        known = self._store.known_id(image)
        if known or self._store.closed:  # then nothing can be read any more: it goes by its key
            return known or image.key
        diff_ids = self._in_parallel(self._diff_id, image.layers)
        config = _with_whole_history(image, tuple(map(Digest.parse, diff_ids)))
        digest = Digest.of(config.to_json())
        self._keep(image, config, digest)
        return str(digest)

    def _keep(self, image: Image, config: ImageConfig, digest: Digest, manifest: Digest | None = None) -> None:
        """Remember what was found out; not of a folder of the host, whose files may be others next time."""
        if self._store.holds(image) and not any(layer.id.startswith("/") for layer in image.layers):
            self._store.put(config, image.layers, image.host_directories, manifest=manifest, config_digest=digest)
            self._store.rename(image, digest)

    def _diff_id(self, layer: Layer) -> str:
        if layer.id.startswith("/"):
            return self._diff_id_of_folder(layer.path)
        with self._store.lock(f"pack-{layer.id}"):
            record = self._store.tar_of(layer)
            if record is None:
                diff_id = self._work("tree_digest", layer.path)
                record = {"diff_id": diff_id, "tree": diff_id}
                self._store.keep_tar(layer, record)
            return str(record["diff_id"])

    def _diff_id_of_folder(self, path: str) -> str:
        """Of a folder of the host, which is read again when anything in it has changed."""
        name = "folder-" + hashlib.sha256(os.fsencode(path)).hexdigest()
        state, changed = self._store.state(path)
        known = self._store.memory(name)
        if known.get("state") != state:
            known = {"state": state, "diff_id": str(self._work("tree_digest", path))}
            if changed < time.time_ns() - TICK:  # else it may change once more in the same moment
                self._store.remember(name, known)
        return str(known["diff_id"])

    def _kept(self, digest: Digest) -> Packed | None:
        """What it was packed as before, if all of that is still there."""
        if not self._content.has(digest):
            return None
        data = self._content.read(digest)
        manifest = _manifest(data, None)
        if not all(self._content.has(blob.digest) for blob in (manifest.config, *manifest.layers)):
            return None
        config = ImageConfig.from_json(self._content.read(manifest.config.digest))
        return Packed(Descriptor.of(data, manifest.media_type), data, manifest, config)

    def _pack_layer(self, layer: Layer) -> dict[str, Any]:
        if layer.id.startswith("/"):
            return self._write_tar(layer)
        with self._store.lock(f"pack-{layer.id}"):
            record = self._store.tar_of(layer)
            if record is None or "digest" not in record or not self._content.has(Digest.parse(record["digest"])):
                record = self._write_tar(layer)
                self._store.keep_tar(layer, record)
            return record

    def _write_tar(self, layer: Layer) -> dict[str, Any]:
        with self._store.scratch() as scratch:
            blob = scratch / "blob"
            record = self._work("pack_layer", layer.path, str(blob))
            self._content.adopt(blob, Digest.parse(record["digest"]))
        return {**record, "media_type": OCI_LAYER_GZIP, "tree": record["diff_id"]}

    # -- in -----------------------------------------------------------------------------------------------------------

    def unpack(self, descriptor: Descriptor) -> Image:
        """The image of a manifest whose blobs are all in ``Store.content``: its id is the digest of its config.

        Layers that are not in the store yet are unpacked, in parallel. ``MalformedImage`` for what is no image or does
        not agree with itself, ``ContentMismatch`` for a layer that is not what the config says.
        """
        data = self._read(descriptor)
        manifest = _manifest(data, descriptor.media_type)
        check_layers(manifest)
        config = ImageConfig.from_json(self._read(manifest.config))
        check_agreement(manifest, config)
        host_directories = self._allowed(config)
        layers = self._unpack_layers(manifest.layers, config)
        return self._store.put(
            config, layers, host_directories, manifest=descriptor.digest, config_digest=manifest.config.digest
        )

    def unpack_layer(self, descriptor: Descriptor, diff_id: Digest) -> Layer:
        """Unpack one layer whose blob is in ``content`` ahead of ``unpack``: while the others are still coming, say."""
        return self._unpacked(descriptor, diff_id)[0]

    @contextlib.contextmanager
    def unpacking(self, descriptor: Descriptor, diff_id: Digest, path: Path) -> Iterator[Callable[[], None]]:
        """Unpack one layer while the block writes its blob into the file ``path``.

        The block calls what it is given whenever there is more to read. When it ends, so does the unpacking; the errors
        are those of ``unpack``. The files are kept only if they are those of ``diff_id``.
        """
        blob = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        news, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing, False)

        def tell() -> None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it knows, or it is through
                os.write(writing, b"\n")

        try:
            with concurrent.futures.ThreadPoolExecutor(1, "capsule-unpacking") as pool:
                unpacked = pool.submit(self._unpacked, descriptor, diff_id, _Coming(blob, news))
                try:
                    yield tell
                finally:
                    os.close(writing)
                unpacked.result()
        finally:
            os.close(news)
            os.close(blob)

    def _unpack_layers(self, descriptors: Sequence[Descriptor], config: ImageConfig) -> tuple[Layer, ...]:
        pairs = list(zip(descriptors, config.diff_ids, strict=True))
        self._in_parallel(lambda pair: self._unpacked(*pair), list({pair[1]: pair for pair in pairs}.values()))
        layers: list[Layer] = []
        for (descriptor, diff_id), chain_id in zip(pairs, config.chain_ids(), strict=True):
            layer, implied = self._unpacked(descriptor, diff_id)
            below = [other.path for other in visible(layers)]
            if implied and below and (found := self._work("metadata_below", implied, below)):
                layer = self._unpacked_upon(descriptor, chain_id, found)
            layers.append(layer)
        return tuple(layers)

    def _unpacked(
        self, descriptor: Descriptor, diff_id: Digest, coming: _Coming | None = None
    ) -> tuple[Layer, list[str]]:
        """A layer, and the directories of it whose metadata are those of the layers below, which it does not tell."""
        key = f"diff-{diff_id.hex}"
        with self._store.lock(key):
            record = self._store.step(key)
            if record is None:
                layer, implied = self._read_tar(descriptor, diff_id, {}, coming)
                record = {"layer": layer.id, "implied": implied}
                self._store.keep_step(key, record)
            return self._store.layer(record["layer"]), record["implied"]

    def _unpacked_upon(self, descriptor: Descriptor, chain_id: Digest, metadata: dict[str, Any]) -> Layer:
        """The same layer for this one stack, with the metadata of directories below it: containerd does it too."""
        key = f"chain-{chain_id.hex}"
        with self._store.lock(key):
            record = self._store.step(key)
            if record is None:
                record = {"layer": self._read_tar(descriptor, None, metadata)[0].id}
                self._store.keep_step(key, record)
            return self._store.layer(record["layer"])

    def _read_tar(
        self,
        descriptor: Descriptor,
        diff_id: Digest | None,
        metadata: dict[str, Any],
        coming: _Coming | None = None,
    ) -> tuple[Layer, list[str]]:
        blob = self._content.path(descriptor.digest)
        if coming is None and not self._content.has(descriptor.digest):
            raise StoreError(f"blob {descriptor.digest} is missing from the store", path=str(blob))
        with self._store.scratch() as scratch:
            tree = scratch / "fs"
            if coming is None:
                found = self._work("unpack_layer", str(blob), str(tree), metadata)
            else:
                opened = (coming.blob, coming.news)
                found = self._work("unpack_growing_layer", str(tree), metadata, descriptors=opened)
            if "broken" in found:
                raise MalformedImage(found["broken"], document=f"layer {descriptor.digest}")
            if diff_id is not None and found["diff_id"] != str(diff_id):
                raise ContentMismatch(
                    f"layer {descriptor.digest} holds the files {found['diff_id']}, and its image says {diff_id}",
                    digest=str(diff_id),
                    found=found["diff_id"],
                )
            layer = self._store.adopt(tree, origin=found["diff_id"])
        tar = {"digest": str(descriptor.digest), "size": descriptor.size, "media_type": descriptor.media_type}
        self._store.keep_tar(layer, {"diff_id": found["diff_id"], **tar, "metadata": metadata})
        return layer, found["implied"]

    def _read(self, descriptor: Descriptor) -> bytes:
        data = self._content.read(descriptor.digest)
        if len(data) != descriptor.size:
            raise MalformedImage(
                f"{descriptor.digest} has {len(data)} bytes, and its descriptor says {descriptor.size}",
                document="descriptor",
                field="size",
            )
        return data

    def _allowed(self, config: ImageConfig) -> tuple[str, ...]:
        """The directories of the host that an image wants to show: only those of this machine's ``capsule/host``."""
        wanted = config.extra.get(_HOST_DIRECTORIES, [])
        if not wanted:
            return ()
        if set(wanted) - set(self._host_directories()):
            raise ImageNotFound(
                "the image was built on capsule/host of another machine, whose files it does not contain",
                reference="",
                hint="build it FROM an image that has its own files",
            )
        return tuple(wanted)

    # -- the work -----------------------------------------------------------------------------------------------------

    def _work(self, function: str, *args: Any, descriptors: Sequence[int] = ()) -> Any:
        try:
            return self._call(archived_layers.__name__, function, *args, descriptors=descriptors)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise StoreError(
                f"a layer cannot be {'packed' if function == 'pack_layer' else 'unpacked'}: {error.strerror}{where}",
                path=str(self._store.root),
            ) from None

    def _in_parallel(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        if len(items) < 2 or self._parallel < 2:
            return [function(item) for item in items]
        with concurrent.futures.ThreadPoolExecutor(self._parallel, "capsule-layers") as pool:
            return list(pool.map(function, items))


def _manifest(data: bytes, media_type: str | None) -> Manifest:
    found = parse_manifest(data, media_type)
    if isinstance(found, Index):
        raise UsageError("an index was given where one image's manifest is needed")
    return found


def check_layers(manifest: Manifest) -> None:
    """Refuse what is no image, or has a layer that cannot be had; before anything is fetched."""
    if manifest.config.media_type not in CONFIG_TYPES:
        kind = manifest.artifact_type or manifest.config.media_type
        raise MalformedImage(f"it is no image but an artifact of type {kind!r}", document="manifest", field="config")
    for position, layer in enumerate(manifest.layers):
        if layer.is_foreign:
            raise MalformedImage(
                f"a layer that its registry does not give out ({layer.media_type}); such are parts of Windows",
                document="manifest",
                field=f"layers[{position}]",
                hint="containers need an image for Linux",
            )
        layer.compression  # noqa: B018  # raises for what is no layer


def check_agreement(manifest: Manifest, config: ImageConfig) -> None:
    """Refuse an image whose manifest and config do not tell of the same layers."""
    if len(manifest.layers) != len(config.diff_ids):
        raise MalformedImage(
            f"the manifest has {len(manifest.layers)} layers and the config {len(config.diff_ids)}",
            document="image config",
            field="rootfs.diff_ids",
        )
    made = sum(not entry.empty_layer for entry in config.history)
    if made > len(config.diff_ids):
        raise MalformedImage(
            f"the history tells of {made} layers and there are {len(config.diff_ids)}",
            document="image config",
            field="history",
        )


def _with_whole_history(image: Image, diff_ids: tuple[Digest, ...]) -> ImageConfig:
    """The config for the manifest: a line of history for every layer, as many tools expect."""
    config = image.config
    untold = len(diff_ids) - sum(not entry.empty_layer for entry in config.history)
    first = tuple(History(comment="a layer of the base image") for _ in range(untold))
    extra = dict(config.extra)
    if image.host_directories:
        extra[_HOST_DIRECTORIES] = list(image.host_directories)
    return replace(config, diff_ids=diff_ids, history=(*first, *config.history), extra=extra)
