"""What goes from a store when somebody cleans up, and what stays.

Images and build steps hold layers, images hold blobs. Records go first, then what nothing holds any more: whoever is
killed in between leaves layers that the next one finds without an owner. What a living engine has claimed stays, and so
does the folder of a cache mount while a step uses it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_capsule.errors import CapsuleError
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Manifest
from pytest_capsule.store import caches
from pytest_capsule.store.content import claim_of
from pytest_capsule.store.image import Image
from pytest_capsule.store.store import Store, claim_of_layer

_PATIENCE = 24 * 3600  # seconds for which somebody may go on with a download that broke off
_BUILD_STEP = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went: ``images`` by what the store knew them by, the ``names`` that they had, the ``size`` of all in bytes.

    ``steps`` is how many steps of builds went from the cache, ``layers`` and ``blobs`` how many of those, ``caches``
    how many folders of ``RUN --mount=type=cache``.
    """

    images: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    steps: int = 0
    layers: int = 0
    blobs: int = 0
    size: int = 0
    caches: int = 0


@dataclass(slots=True)
class _Record:
    """An image, a step or a cache, and what it holds; ``used`` is when that was last handed out, in nanoseconds."""

    key: str
    holds: frozenset[str]
    used: int
    image: Image | None = None


@dataclass(slots=True)
class _Thing:
    """A layer, a blob or the folder of a cache."""

    path: Path
    size: int
    used: int
    holders: set[str] = field(default_factory=set)


def prune(
    store: Store,
    *,
    all: bool = False,
    build_cache: bool = False,
    keep: int | None = None,
    keep_images: Collection[str] = (),
    in_use: Collection[str] = (),
) -> Pruned:
    """Remove images without a name and what nothing holds, with ``build_cache`` the steps of builds and the folders of
    cache mounts, with ``all`` both and images with names. What broken downloads have left goes after a day, and with
    ``all`` at once.

    Nothing goes that another living engine has claimed, or that is in ``in_use`` (claims of this one), and none of
    ``keep_images``. With ``keep`` only as much goes as makes the store that small in bytes, what was not used for
    longest first.
    """
    store.collect()
    with store.scratch() as trash, store.claims.held():  # what is in the trash is removed when the lock is free again
        pruning = _Pruning(store, {*store.claims.of_others(), *store.claims.needed(), *in_use}, keep)
        pruned = pruning.run(trash, all=all, build_cache=all or build_cache, keep_images=keep_images)
        begun = store.content.forget_begun(trash, time.time() - (0 if all and keep is None else _PATIENCE))
        return replace(pruned, size=pruned.size + begun)


class _Pruning:
    def __init__(self, store: Store, claimed: set[str], keep: int | None) -> None:
        self._store = store
        self._claimed = claimed
        self._keep = keep
        layers = _layers(store)
        self._layer_names = layers.keys()
        folders = _folders_of_caches(store)
        self._things = {**layers, **_blobs(store), **folders}
        self._records: dict[str, _Record] = {}
        for record in (*_images(store, self._things), *_steps(store, self._things), *_caches(folders)):
            self._records[record.key] = record
            for name in record.holds & self._things.keys():
                self._things[name].holders.add(record.key)
        self._left = sum(thing.size for thing in self._things.values())
        self._gone: list[_Record] = []
        self._doomed: list[_Thing] = []

    def run(self, trash: Path, *, all: bool, build_cache: bool, keep_images: Collection[str]) -> Pruned:
        for name in [name for name, thing in self._things.items() if not thing.holders]:
            self._doom(name)
        going = [record for record in self._records.values() if self._may_go(record, all, build_cache, keep_images)]
        going.sort(key=lambda record: (record.used, record.image is None))
        before = -1
        while before != len(self._gone):  # a step whose layer an image had may go when the image is gone
            before = len(self._gone)
            for record in going:
                self._try_to_let_go(record)
        return self._carry_out(trash)

    def _may_go(self, record: _Record, all: bool, build_cache: bool, keep_images: Collection[str]) -> bool:
        layers = {name for name in record.holds if name in self._layer_names}
        if layers and layers <= self._claimed:
            return False
        if record.image is not None:
            return record.image.key not in keep_images and (all or not record.image.tags)
        if record.key in self._things:
            return build_cache and not caches.is_lent(self._things[record.key].path)
        return build_cache or not _BUILD_STEP.fullmatch(record.key.removeprefix("step:"))

    def _try_to_let_go(self, record: _Record) -> None:
        enough = self._keep is not None and self._left <= self._keep
        if record.key in self._records and not enough and (record.image is not None or not self._is_shown(record)):
            del self._records[record.key]
            self._let_go(record)

    def _is_shown(self, step: _Record) -> bool:
        """Whether an image that stays has the step's layer: then it is no cache that takes room."""
        holders = {key for name in step.holds & self._things.keys() for key in self._things[name].holders}
        return any(key.startswith("image:") for key in holders)

    def _let_go(self, record: _Record) -> None:
        self._gone.append(record)
        for name in record.holds & self._things.keys():
            self._things[name].holders.discard(record.key)
            if not self._things[name].holders:
                self._doom(name)

    def _doom(self, name: str) -> None:
        if name not in self._claimed:
            self._doomed.append(self._things[name])
            self._left -= self._things[name].size

    def _carry_out(self, trash: Path) -> Pruned:
        images = [record.image for record in self._gone if record.image is not None]
        for image in images:
            self._store.remove(image)
        steps = [record.key for record in self._gone if record.key.startswith("step:")]
        for key in steps:
            self._store.forget_step(key.removeprefix("step:"))
        folders = [self._things[record.key] for record in self._gone if record.key in self._things]
        gone = [folder for folder in folders if caches.remove(folder.path, trash)]
        doomed = [thing for thing in self._doomed if thing not in folders]
        self._store.claims.drop(name for name, thing in self._things.items() if thing in doomed)
        for thing in doomed:
            with contextlib.suppress(FileNotFoundError):
                os.rename(thing.path, trash / secrets.token_hex(8))
        blobs = sum(thing.path.parent.parent.name == "blobs" for thing in doomed)
        return Pruned(
            images=tuple(image.key for image in images),
            names=tuple(name for image in images for name in image.tags),
            steps=len(steps),
            layers=len(doomed) - blobs,
            blobs=blobs,
            size=sum(thing.size for thing in (*doomed, *gone)),
            caches=len(gone),
        )


def size(store: Store) -> int:
    """The bytes of all layers, blobs and caches."""
    things = (_layers(store), _blobs(store), _folders_of_caches(store))
    return sum(thing.size for found in things for thing in found.values())


def _layers(store: Store) -> dict[str, _Thing]:
    found = {}
    for folder in (store.root / "layers").iterdir():
        with contextlib.suppress(CapsuleError, FileNotFoundError):
            used = (folder / "layer.json").stat().st_mtime_ns
            found[claim_of_layer(folder.name)] = _Thing(folder, store.layer(folder.name, use=False).size, used)
    return found


def _blobs(store: Store) -> dict[str, _Thing]:
    found = {}
    for digest in store.content.all():
        with contextlib.suppress(FileNotFoundError):
            info = store.content.path(digest).stat()
            found[claim_of(digest)] = _Thing(store.content.path(digest), info.st_size, info.st_mtime_ns)
    return found


def _folders_of_caches(store: Store) -> dict[str, _Thing]:
    found = {}
    for folder in caches.Caches(store.root / "caches").folders():
        with contextlib.suppress(FileNotFoundError):
            used = folder.stat().st_mtime_ns
            found[f"cache:{folder.parent.name}/{folder.name}"] = _Thing(folder, store.measure(folder)[0], used)
    return found


def _images(store: Store, things: dict[str, _Thing]) -> Iterable[_Record]:
    for image in store.images():
        layers = [claim_of_layer(layer.id) for layer in image.layers]
        top = things.get(layers[-1]) if layers else None
        used = top.used if top is not None else store.made(image)
        yield _Record(f"image:{image.key}", frozenset({*layers, *blobs_of(store, image)}), used, image)


def _steps(store: Store, things: dict[str, _Thing]) -> Iterable[_Record]:
    for key, layer in store.steps():
        name = claim_of_layer(layer) if layer else ""
        used = things[name].used if name in things else 0
        yield _Record(f"step:{key}", frozenset({name} - {""}), used)


def _caches(folders: dict[str, _Thing]) -> Iterable[_Record]:
    return [_Record(name, frozenset({name}), folder.used) for name, folder in folders.items()]


def blobs_of(store: Store, image: Image) -> set[str]:
    """The claims of all blobs of an image that has a manifest."""
    digest = store.manifest_of(image)
    if digest is None:
        return set()
    found: set[Digest] = {digest}
    with contextlib.suppress(CapsuleError, OSError):
        manifest = Manifest.from_json(store.content.path(digest).read_bytes())
        found |= {blob.digest for blob in (manifest.config, *manifest.layers)}
    return {claim_of(digest) for digest in found}
