"""Looks at everything in a store, and mends what can be made anew.

What was damaged is taken away, so that the next one who needs it makes, packs or loads it again; an image that cannot
be whole without it is named, and goes too when it can never be. Nothing that a living engine uses is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_capsule.archive import layers as archived_layers
from pytest_capsule.errors import CapsuleError, InvalidReference
from pytest_capsule.oci.config import ImageConfig
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store.content import claim_of
from pytest_capsule.store.image import Layer
from pytest_capsule.store.store import Store, claim_of_layer

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is broken: ``what`` and ``why``; ``mended`` says what was done about it, "" where nothing was."""

    what: str
    why: str
    mended: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.mended or 'it is in use: nothing was done'}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and the problems that it had."""

    images: int
    layers: int
    blobs: int
    problems: tuple[Problem, ...]


def verify(store: Store, call: Callable[..., Any]) -> Verified:
    """Look at every blob, layer, step, image and reference. ``call`` reads layers (``store.packing.Call``)."""
    store.collect()
    looking = _Looking(store, call)
    with store.claims.held():
        looking.claimed = store.claims.of_others() | store.claims.needed()
    problems = tuple(looking.problems())  # in this order: a layer is compared with its blob, an image with its layers
    return Verified(
        images=len(store.images()),
        layers=sum(1 for _ in (store.root / "layers").iterdir()),
        blobs=len(store.content.all()),
        problems=problems,
    )


class _Looking:
    def __init__(self, store: Store, call: Callable[..., Any]) -> None:
        self._store = store
        self._call = call
        self.claimed: set[str] = set()

    def problems(self) -> Iterator[Problem]:
        yield from self._blobs()
        yield from self._layers()
        yield from self._steps()
        yield from self._images()
        yield from self._references()

    def _blobs(self) -> Iterator[Problem]:
        for digest in self._store.content.all():
            path = self._store.content.path(digest)
            found = hashlib.new(digest.algorithm, usedforsecurity=False)
            with contextlib.suppress(FileNotFoundError):
                with path.open("rb") as file:
                    while data := file.read(_CHUNK):
                        found.update(data)
                if found.hexdigest() != digest.hex:
                    mended = self._away(claim_of(digest), path, "removed: it is packed, loaded or pulled again")
                    yield Problem(f"blob {digest}", f"its digest is {digest.algorithm}:{found.hexdigest()}", mended)

    def _layers(self) -> Iterator[Problem]:
        for folder in sorted((self._store.root / "layers").iterdir()):
            why = self._damage(folder)
            if why:
                claim = claim_of_layer(folder.name)
                mended = self._away(claim, folder, "removed: its step is carried out, or its image loaded again")
                yield Problem(f"layer {folder.name}", why, mended)

    def _damage(self, folder: Path) -> str:
        """What is wrong with a layer; "" for nothing."""
        try:
            layer = self._store.layer(folder.name, use=False)
            tar = self._store.tar_of(layer)
        except CapsuleError as error:
            return error.message
        if not (folder / "fs").is_dir():
            return "it has no files"
        size, stamp = self._store.measure(folder / "fs")
        if size != layer.size:
            return f"its files have {size} bytes, and had {layer.size}"
        if layer.stamp not in ("", stamp):  # of a store that is older than this line there is none
            return "its files do not have the names, modes, sizes and times that they had"
        found = self._call(archived_layers.__name__, "tree_digest", layer.path)
        if tar is None:  # nobody has asked for its digest yet
            self._remember(layer, found)
            return ""
        expected = tar.get("tree") or self._unpacked_again(layer, tar)
        return f"its files are {found}, and were {expected}" if expected not in ("", found) else ""

    def _remember(self, layer: Layer, found: str) -> None:
        """Keep the digest of a layer, for the next look at it and for whoever asks for its image's id."""
        with self._store.lock(f"pack-{layer.id}"):
            if self._store.tar_of(layer) is None:
                self._store.keep_tar(layer, {"diff_id": found, "tree": found})

    def _unpacked_again(self, layer: Layer, tar: dict[str, Any]) -> str:
        """The digest of the files that the layer's blob gives, "" without it; remembered for the next time."""
        blob = self._store.content.path(Digest.parse(tar["digest"]))  # with no digest, it was read here, and has "tree"
        if not blob.exists():
            return ""
        with self._store.scratch() as scratch:
            tree = str(scratch / "fs")
            found = self._call(archived_layers.__name__, "unpack_layer", str(blob), tree, tar.get("metadata", {}))
            if found.get("diff_id") != tar["diff_id"]:
                return ""
            digest: str = self._call(archived_layers.__name__, "tree_digest", tree)
        self._store.keep_tar(layer, {**tar, "tree": digest})
        return digest

    def _steps(self) -> Iterator[Problem]:
        for path in sorted((self._store.root / "steps").glob("*.json")):
            why = ""
            try:
                record = json.loads(path.read_bytes())
                if record["layer"] and not (self._store.root / "layers" / record["layer"]).is_dir():
                    why = f"its layer {record['layer']} is not there"
            except (ValueError, KeyError, TypeError):
                why = "its record is damaged"
            if why:
                path.unlink(missing_ok=True)
                yield Problem(f"step {path.stem}", why, "removed: it is carried out again")

    def _images(self) -> Iterator[Problem]:
        for path in sorted((self._store.root / "images").glob("*.json")):
            why = self._what_image_lacks(path)
            if why:
                path.unlink(missing_ok=True)
                yield Problem(f"image {path.stem[:12]}", why, "removed: build, load or pull it again")
        self._store.forget_former_ids()

    def _what_image_lacks(self, path: Path) -> str:
        image_id = f"sha256:{path.stem}"
        try:
            if self._store.is_former(image_id):
                return ""
            image = self._store.get(image_id, use=False)
            digest = self._store.manifest_of(image)
        except CapsuleError as error:
            return error.message
        except ValueError:
            return "its record is damaged"
        config = self._store.content.path(Digest.parse(image.key))
        if digest is not None and image.key == image_id and config.exists():
            with contextlib.suppress(CapsuleError):
                if ImageConfig.from_json(config.read_bytes()) != image.config:
                    return "its record is not what its config says"
        return ""

    def _references(self) -> Iterator[Problem]:
        for path in sorted((self._store.root / "references").iterdir()):
            name = urllib.parse.unquote(path.name)
            try:
                Reference.parse(name)
                self._store.get(path.read_text(), use=False)
                continue
            except InvalidReference:
                why = "it is no name of an image"
            except (CapsuleError, ValueError):
                why = "its image is not there"
            path.unlink(missing_ok=True)
            yield Problem(f"name {name}", why, "removed")

    def _away(self, claim: str, path: Path, mended: str) -> str:
        """Take something out of the store, unless somebody uses it."""
        if claim in self.claimed:
            return ""
        with self._store.scratch() as trash:
            path.rename(trash / "damaged")
        return mended
