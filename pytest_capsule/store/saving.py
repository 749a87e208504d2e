"""Images into files: an OCI layout, as a folder or a tar, with Docker's ``manifest.json`` in the tar.

Docker itself writes both at once since version 25, and older ones read only their own: so do podman, skopeo and umoci,
each its own way. Sources: image-spec, image-layout.md; moby, ``image/tarexport``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from pytest_capsule.archive.pack import END, file_header, padding
from pytest_capsule.errors import UsageError
from pytest_capsule.oci.descriptor import FULL_NAME, REF_NAME, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Index
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store.content import Content
from pytest_capsule.store.image import Packed

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK = 1 << 20
Saved = Sequence[tuple[Packed, Sequence[str]]]
"""Images, each with its names (``Reference.familiar``)."""


def save(images: Saved, target: IO[bytes], content: Content) -> None:
    """Write images as one tar."""
    for path, digest in _blobs(images).items():
        size = content.size(digest)
        target.write(file_header(path, size))
        with content.open(digest) as file:
            while data := file.read(_CHUNK):
                target.write(data)
        target.write(padding(size))
    documents = {"index.json": _index(images).to_json(), "manifest.json": _listed(images), "oci-layout": LAYOUT}
    for path, data in documents.items():
        target.write(file_header(path, len(data)) + data + padding(len(data)))
    target.write(END)


def save_folder(images: Saved, folder: Path, content: Content) -> None:
    """Write images as an OCI layout; one that is there keeps its other images."""
    entries = _index(images).manifests
    kept: tuple[Descriptor, ...] = ()
    if (folder / "index.json").exists():
        kept = Index.from_json((folder / "index.json").read_bytes()).manifests
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is a folder with something else in it", hint="name a new folder, or an OCI layout")
    for path, digest in _blobs(images).items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            new = place.with_name(f".{place.name}.new")
            with content.open(digest) as source, new.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            os.replace(new, place)
    (folder / "oci-layout").write_bytes(LAYOUT)
    names = {entry.names for entry in entries if entry.names}
    old = (entry for entry in kept if entry not in entries and entry.names not in names)
    new = folder / ".index.json.new"
    new.write_bytes(Index((*old, *entries)).to_json())
    os.replace(new, folder / "index.json")


def _blobs(images: Saved) -> dict[str, Digest]:
    """Every blob by its path, each once."""
    found: dict[str, Digest] = {}
    for packed, _ in images:
        for blob in (packed.descriptor, packed.manifest.config, *packed.manifest.layers):
            found[_path(blob.digest)] = blob.digest
    return dict(sorted(found.items()))


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _index(images: Saved) -> Index:
    entries: list[Descriptor] = []
    for packed, names in images:
        entry = replace(packed.descriptor, platform=packed.config.platform)
        for name in names:
            reference = Reference.parse(name)
            annotations = {FULL_NAME: str(reference), REF_NAME: reference.tag or ""}
            entries.append(replace(entry, annotations=annotations))
        if not names:
            entries.append(entry)
    return Index(tuple(dict.fromkeys(entries)))


def _listed(images: Saved) -> bytes:
    """Docker's ``manifest.json``."""
    entries = [
        {
            "Config": _path(packed.manifest.config.digest),
            "RepoTags": list(names) or None,
            "Layers": [_path(layer.digest) for layer in packed.manifest.layers],
        }
        for packed, names in images
    ]
    return json.dumps(entries, separators=(",", ":")).encode()
