"""Images out of files: OCI layouts, as a folder or a tar, and the archives of ``docker save``, old and new.

Sources: image-spec, image-layout.md; moby, ``image/tarexport``.
"""

from __future__ import annotations

import json
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from pytest_capsule._linux import inroot
from pytest_capsule.archive.compression import Broken, compression_of, unpacked
from pytest_capsule.archive.members import Reader
from pytest_capsule.errors import ImageNotFound, InvalidReference, MalformedImage
from pytest_capsule.oci.descriptor import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Index, Manifest, find_manifest, parse_manifest
from pytest_capsule.oci.platform import Platform
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store.content import Content
from pytest_capsule.store.image import Image
from pytest_capsule.store.packing import Packing, check_layers

_CHUNK = 1 << 20
_LINKS = 8  # one to the other
# What archives of Docker before 25 have for Docker before 1.10.
_LEGACY = ("VERSION", "json", "repositories")
_LAYER_TYPES = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True)
class Found:
    """One image of an archive: its manifest, which is in ``Content`` with all it names, and what it is called there."""

    manifest: Descriptor
    names: tuple[str, ...] = ()


def load(
    file: IO[bytes] | Path, packing: Packing, content: Content, *, platform: Platform, wanted: str = ""
) -> list[tuple[Image, Found]]:
    """The images of an archive, or of the folder of an OCI layout: those for ``platform``.

    ``wanted`` is the one name or tag that is meant; ``ImageNotFound`` where there is none of it.
    """
    source = _Folder(file, content) if isinstance(file, Path) else _Tar(file, content)
    found = list(_Loading(source, packing, content, platform).images())
    if wanted:
        found = [one for one in found if any(_is_meant(wanted, name) for name in one.names)] or _none_of(wanted, found)
    return [(packing.unpack(one.manifest), one) for one in found]


def _is_meant(wanted: str, name: str) -> bool:
    """Whether it is the name, as it stands or in another spelling of it, or its tag alone."""
    if wanted == name:
        return True
    try:
        reference = Reference.parse(name)
        return wanted == reference.tag or Reference.parse(wanted) == reference
    except InvalidReference:
        return False


def _none_of(wanted: str, found: Sequence[Found]) -> list[Found]:
    if len(found) == 1 and not found[0].names:
        raise ImageNotFound(f"the one image in there has no name, so none is {wanted!r}", reference=wanted)
    names = sorted({name for one in found for name in one.names})
    raise ImageNotFound(
        f"there is no image {wanted!r} in there", reference=wanted, hint=f"there are: {', '.join(names) or 'none'}"
    )


class _Source(Protocol):
    """The files of an archive, each brought into ``Content`` when it is asked for, at the latest."""

    def find(self, path: str, digest: Digest | None = None, size: int | None = None) -> Digest | None:
        """The digest of a file, which is in ``Content``; ``None`` where there is none."""


class _Folder:
    """An OCI layout as a folder."""

    def __init__(self, folder: Path, content: Content) -> None:
        self._folder = folder
        self._content = content

    def find(self, path: str, digest: Digest | None = None, size: int | None = None) -> Digest | None:
        if digest is not None and self._content.has(digest):
            return digest
        try:
            fd = self._open(path, anywhere=digest is not None)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        with open(fd, "rb") as file, self._content.write(digest, size) as blob:
            while data := file.read(_CHUNK):
                blob.write(data)
        return blob.digest

    def _open(self, path: str, *, anywhere: bool) -> int:
        """A file of the folder. Links may lead ``anywhere`` only to a blob, which is known by its digest: what a
        ``manifest.json`` names is otherwise any file of this machine.
        """
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        if anywhere:
            return os.open(self._folder / path, flags)
        root = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return inroot.open_inside(root, path, flags)
        finally:
            os.close(root)


class _Tar:
    """A tar, read once from its beginning to its end: it may come from a pipe."""

    def __init__(self, file: IO[bytes], content: Content) -> None:
        self._content = content
        self._files: dict[str, Digest] = {}
        self._links: dict[str, str] = {}
        try:
            reader = Reader(unpacked(file))
            for member in reader:
                path = posixpath.normpath(member.name.lstrip("/"))
                if member.kind == b"0" and posixpath.basename(path) not in _LEGACY:
                    self._files[path] = self._keep(reader, _digest_in(path), member.size)
                elif member.kind == b"1":
                    self._links[path] = posixpath.normpath(member.link.lstrip("/"))
                elif member.kind == b"2":  # Docker stores a layer that several images share once
                    self._links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.link))
        except Broken as error:
            raise MalformedImage(str(error), document="archive") from None

    def _keep(self, reader: Reader, digest: Digest | None, size: int) -> Digest:
        if digest is not None and self._content.has(digest):
            return digest
        with self._content.write(digest, size) as blob:
            for part in reader.content():
                blob.write(part)
        return blob.digest

    def find(self, path: str, digest: Digest | None = None, size: int | None = None) -> Digest | None:
        for _ in range(_LINKS):
            if path not in self._links:
                break
            path = self._links[path]
        return self._files.get(path)


def _digest_in(path: str) -> Digest | None:
    """The digest that the path of a blob tells."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest(parts[1], parts[2])
    except MalformedImage:
        return None


class _Loading:
    """The images that a source lists."""

    def __init__(self, source: _Source, packing: Packing, content: Content, platform: Platform) -> None:
        self._source = source
        self._platform = platform
        self._packing = packing
        self._content = content

    def images(self) -> Iterator[Found]:
        """Those for the platform, in the archive's order."""
        listed = self._document("manifest.json")
        index = self._document("index.json")
        if index is not None:
            yield from self._of_layout(Index.from_json(index), self._docker_names(listed))
        elif listed is not None:
            for entry in _docker_entries(listed):
                yield Found(self._docker_manifest(entry), tuple(entry.get("RepoTags") or ()))
        else:
            raise MalformedImage(
                "it has neither index.json (an OCI layout) nor manifest.json (docker save)",
                document="archive",
                hint="a root filesystem is brought in with: capsule import FILE NAME",
            )

    def _document(self, path: str) -> bytes | None:
        digest = self._source.find(path)
        return None if digest is None else self._content.read(digest)

    # -- OCI layouts --------------------------------------------------------------------------------------------------

    def _of_layout(self, index: Index, docker_names: dict[Digest, tuple[str, ...]]) -> Iterator[Found]:
        """An entry is an image; several of one name are one image for several platforms."""
        images: dict[Digest, tuple[Descriptor, list[str]]] = {}
        for called, entries in _by_name(index.manifests):
            chosen, manifest = self._chosen(entries, called[0] if called else "")
            self._fetch_all(manifest)
            _, names = images.setdefault(chosen.digest, (chosen, []))
            names += called
            names += [other for other in docker_names.get(manifest.config.digest, ()) if other not in names]
        for descriptor, names in images.values():
            yield Found(descriptor, tuple(dict.fromkeys(names)))

    def _chosen(self, entries: Sequence[Descriptor], name: str) -> tuple[Descriptor, Manifest]:
        """The manifest for the platform among the entries of one name."""
        entry = entries[0] if len(entries) == 1 else Index(tuple(entries)).choose(self._platform, reference=name)
        return find_manifest(entry, self._platform, self._read, reference=name)

    def _read(self, descriptor: Descriptor) -> Manifest | Index:
        self._fetch(descriptor)
        return parse_manifest(self._content.read(descriptor.digest), descriptor.media_type)

    def _fetch_all(self, manifest: Manifest) -> None:
        """Have what an image consists of in ``Content``."""
        check_layers(manifest)
        for blob in (manifest.config, *manifest.layers):
            self._fetch(blob)

    def _fetch(self, descriptor: Descriptor) -> None:
        digest = descriptor.digest
        if self._source.find(f"blobs/{digest.algorithm}/{digest.hex}", digest, descriptor.size) is None:
            if descriptor.data is not None:
                self._content.add(descriptor.data)
            elif not self._content.has(digest):
                raise MalformedImage(f"blob {digest} is not in it", document="archive")

    # -- docker save --------------------------------------------------------------------------------------------------

    def _docker_names(self, listed: bytes | None) -> dict[Digest, tuple[str, ...]]:
        """The names in ``manifest.json``, by the digest of the image's config."""
        names: dict[Digest, tuple[str, ...]] = {}
        for entry in _docker_entries(listed) if listed is not None else ():
            digest = self._source.find(posixpath.normpath(entry["Config"]))
            if digest is not None:
                names[digest] = (*names.get(digest, ()), *(entry.get("RepoTags") or ()))
        return names

    def _docker_manifest(self, entry: dict[str, Any]) -> Descriptor:
        """A manifest for an image whose archive has none: of its config and its layers as they are."""
        config = self._described(entry["Config"], OCI_CONFIG)
        layers = [self._described(path, "") for path in entry["Layers"]]
        manifest = Manifest(config, tuple(replace(layer, media_type=self._layer_type(layer)) for layer in layers))
        data = manifest.to_json()
        self._content.add(data)
        return Descriptor.of(data, OCI_MANIFEST)

    def _described(self, path: str, media_type: str) -> Descriptor:
        digest = self._source.find(posixpath.normpath(path))
        if digest is None:
            raise MalformedImage(f"{path} is not in it", document="archive", field="manifest.json")
        return Descriptor(media_type, digest, self._content.size(digest))

    def _layer_type(self, layer: Descriptor) -> str:
        with self._content.open(layer.digest) as file:
            return _LAYER_TYPES.get(compression_of(file.read(8)), OCI_LAYER)


def _docker_entries(data: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedImage(f"not valid JSON: {error}", document="manifest.json") from None
    for entry in entries if isinstance(entries, list) else [None]:
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("Config"), str)
            and _is_texts(entry.get("Layers") or [])
            and _is_texts(entry.get("RepoTags") or [])
        ):
            raise MalformedImage("it is not a list of images as docker save writes it", document="manifest.json")
        entry["Layers"] = entry.get("Layers") or []
    return list(entries)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _by_name(entries: Iterable[Descriptor]) -> list[tuple[tuple[str, ...], list[Descriptor]]]:
    """The entries of each name. One without a name is an image of its own, unless it is one platform of several."""
    groups: dict[tuple[tuple[str, ...], Digest | None], list[Descriptor]] = {}
    for entry in entries:
        alone = entry.digest if not entry.names and entry.platform is None else None
        groups.setdefault((entry.names, alone), []).append(entry)
    return [(names, group) for (names, _), group in groups.items()]
