"""One artifact in an OCI image layout: a folder of blobs with an index. Source: image-spec, image-layout.md."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import IO

from pytest_capsule.errors import MalformedImage, StoreError
from pytest_capsule.oci.descriptor import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Index, Manifest
from pytest_capsule.store.content import Content
from pytest_capsule.store.saving import LAYOUT

_CHUNK = 1 << 20


class Layout:
    """The folder of a layout; it need not be there before something is written."""

    def __init__(self, folder: Path, content: Content) -> None:
        self._folder = folder
        self._content = content

    def read(self, tag: str) -> tuple[Manifest, bytes]:
        """The artifact of a tag, and its config."""
        index = self._index()
        named = [entry for entry in index.manifests if entry.annotations.get(REF_NAME) == tag]
        if not named:
            raise MalformedImage(f"there is nothing named {tag!r}", document="index")
        manifest = Manifest.from_json(self._document(named[-1]), named[-1].media_type)
        return manifest, self._document(manifest.config)

    def fetch(self, layer: Descriptor) -> None:
        """Have a layer's blob in the store."""
        if self._content.has(layer.digest):
            return
        with _opened(self._path(layer.digest)) as file, self._content.write(layer.digest, layer.size) as blob:
            while piece := file.read(_CHUNK):
                blob.write(piece)

    def write(self, manifest: Manifest, config: bytes, tag: str) -> None:
        """Write an artifact beside what is there; it has the tag then."""
        data = manifest.to_json()
        own = Descriptor(OCI_MANIFEST, Digest.of(data), len(data), annotations={REF_NAME: tag})
        try:
            for layer in manifest.layers:
                self._copy(layer)
            for document in (config, data):
                self._put(self._path(Digest.of(document)), document)
            self._put(self._folder / "oci-layout", LAYOUT)
            others = [entry for entry in self._others() if entry.annotations.get(REF_NAME) != tag]
            self._put(self._folder / "index.json", Index((*others, own), media_type=OCI_INDEX).to_json())
        except OSError as error:
            raise StoreError(
                f"the cache {self._folder} cannot be written: {error.strerror}", path=str(self._folder)
            ) from None

    def _others(self) -> tuple[Descriptor, ...]:
        return self._index().manifests if (self._folder / "index.json").exists() else ()

    def _index(self) -> Index:
        with _opened(self._folder / "index.json") as file:
            return Index.from_json(file.read())

    def _document(self, descriptor: Descriptor) -> bytes:
        """A small blob, which goes through the store to be checked."""
        self.fetch(descriptor)
        return self._content.read(descriptor.digest)

    def _copy(self, layer: Descriptor) -> None:
        path = self._path(layer.digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = _beside(path)
        with self._content.open(layer.digest) as file, new.open("wb") as target:
            shutil.copyfileobj(file, target, _CHUNK)
        os.replace(new, path)

    def _put(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = _beside(path)
        new.write_bytes(data)
        os.replace(new, path)

    def _path(self, digest: Digest) -> Path:
        return self._folder / "blobs" / digest.algorithm / digest.hex


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def _beside(path: Path) -> Path:
    """Where a file is written before it takes its name: a reader sees all of it or nothing."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
