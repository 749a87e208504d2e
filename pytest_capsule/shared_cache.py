"""The build cache that machines share: records of steps with their layers, in a registry or a folder.

A record is an ordinary OCI artifact: a manifest whose config says which step gave which layer, and whose layers are the
same gzip'd tars that an image has. In a folder it lies as an OCI image layout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_capsule.build.events import BuildEvent
from pytest_capsule.build.execution import Result
from pytest_capsule.build.labels import Label
from pytest_capsule.build.reasons import Step
from pytest_capsule.distribution import Distribution
from pytest_capsule.errors import CapsuleError, MalformedImage, UsageError
from pytest_capsule.oci.descriptor import Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.document import read_object, write_object
from pytest_capsule.oci.manifest import Manifest
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store.layout import Layout
from pytest_capsule.store.packing import Packing
from pytest_capsule.store.store import Store

ARTIFACT = "application/vnd.pytest-capsule.cache.v1"
_CONFIG = "application/vnd.pytest-capsule.cache.config.v1+json"
_DEFAULT_TAG = "latest"
_KNOWN = {
    "from": {"registry": {"ref"}, "local": {"src", "tag"}},
    "to": {"registry": {"ref", "mode", "ignore-error"}, "local": {"dest", "tag", "mode", "ignore-error"}},
}
# What BuildKit can be told to write, and what is written here in any case.
_WRITTEN = {"image-manifest": "true", "oci-mediatypes": "true", "compression": "gzip"}
_NEEDED = {"registry": "ref", "local from": "src", "local to": "dest"}


@dataclass(frozen=True, slots=True)
class CachePlace:
    """A place for a cache as BuildKit writes it: ``type=registry,ref=NAME`` or ``type=local,dest=FOLDER``.

    ``place`` is the reference, or the folder; ``whole`` says that the steps of all stages are kept (``mode=max``).
    """

    text: str
    kind: str
    place: str
    tag: str = _DEFAULT_TAG
    whole: bool = False
    ignore_error: bool = False

    @classmethod
    def parse(cls, text: str, direction: str) -> CachePlace:
        """Read what ``--cache-from`` (``direction`` is "from") or ``--cache-to`` ("to") takes; ``UsageError``."""
        option = f"cache_{direction}={text!r}"
        if "=" not in text:
            text = f"type=registry,ref={text}"
        fields = _fields(text, option)
        kind = fields.pop("type", "registry")
        known = _KNOWN[direction].get(kind)
        if known is None:
            raise UsageError(f"{option}: no cache of type {kind!r}", hint="there are type=registry and type=local")
        needed = _NEEDED.get(kind) or _NEEDED[f"{kind} {direction}"]
        if not fields.get(needed):
            raise UsageError(f"{option}: {needed}= is missing", hint=f"write type={kind},{needed}=...")
        written = _WRITTEN if direction == "to" else {}
        if unknown := sorted(fields.keys() - known - written.keys()):
            raise UsageError(f"{option}: {unknown[0]}= is not known here", hint=f"there are {', '.join(sorted(known))}")
        for key, value in written.items():
            if fields.get(key, value) != value:
                raise UsageError(f"{option}: what is written has {key}={value}, and cannot have {fields[key]!r}")
        for key, values in (("mode", ("min", "max")), ("ignore-error", ("true", "false"))):
            if fields.get(key, values[0]) not in values:
                raise UsageError(f"{option}: {key} is {' or '.join(values)}")
        if kind == "registry":
            Reference.parse(fields["ref"])
        return cls(
            text,
            kind,
            fields[needed],
            fields.get("tag", _DEFAULT_TAG),
            whole=fields.get("mode") == "max",
            ignore_error=fields.get("ignore-error") == "true",
        )


def _fields(text: str, option: str) -> dict[str, str]:
    pairs = [field.strip().partition("=") for field in text.split(",")]
    if loose := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"{option}: {loose[0]!r} is no KEY=VALUE")
    return {key.lower(): value for key, _, value in pairs}


def parse_places(given: str | Iterable[str], direction: str) -> list[CachePlace]:
    """One place, or several."""
    return [CachePlace.parse(text, direction) for text in ([given] if isinstance(given, str) else given)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a cache knows of a step: its layer and that one's diff_id, or ``None`` where it changed no file.

    ``fetch`` has the blob of the layer in the store.
    """

    layer: Descriptor | None
    diff_id: Digest | None
    created: str
    seconds: float
    fetch: Callable[[Descriptor], None]


class SharedCache:
    """The caches of one build: ``build.execution.Sharing``.

    What cannot be read is a warning: the build goes on without. ``tell`` hears of all that happens.
    """

    def __init__(
        self,
        store: Store,
        packing: Packing,
        registries: Callable[[], Distribution],
        tell: Callable[[BuildEvent], None],
    ) -> None:
        self._store = store
        self._packing = packing
        self._registries = registries
        self._tell = tell
        self._known: dict[str, _Entry] = {}
        self._given: dict[str, tuple[Step, Result]] = {}
        self._last = ""
        self._warnings: list[str] = []
        self._lock = threading.Lock()

    # -- build.execution.Sharing --------------------------------------------------------------------------------------

    def recall(self, key: str) -> Result | None:
        """What a step gave elsewhere, with its layer fetched and unpacked."""
        entry = self._known.get(key)
        if entry is None:
            return None
        if entry.layer is None or entry.diff_id is None:
            return Result(None, entry.created, entry.seconds)
        try:
            entry.fetch(entry.layer)
            layer = self._packing.unpack_layer(entry.layer, entry.diff_id)
            return Result(layer, entry.created, entry.seconds)
        except CapsuleError as error:
            with self._lock:
                self._warnings.append(f"a layer of the cache cannot be used: {error.message}")
            return None

    def note(self, step: Step, result: Result) -> None:
        """Remember what a step of this build gave."""
        with self._lock:
            self._given[step.key] = step, result

    def finish(self, key: str) -> None:
        """Remember which step was the last of the image."""
        self._last = key

    # -- in -----------------------------------------------------------------------------------------------------------

    def load(self, places: Sequence[CachePlace]) -> None:
        """Read what the places know; the first that knows a step counts."""
        for place in places:
            label, started = Label(f"importing cache manifest from {place.place}"), time.monotonic()
            self._tell(label.event("start"))
            try:
                for key, entry in self._read(place).items():
                    self._known.setdefault(key, entry)
            except CapsuleError as error:
                self._warnings.append(f"cache_from={place.text}: {error.message}")
                self._tell(label.event("failed", text=error.message, seconds=time.monotonic() - started))
            else:
                self._tell(label.event("done", seconds=time.monotonic() - started))

    def _read(self, place: CachePlace) -> dict[str, _Entry]:
        if place.kind == "local":
            layout = Layout(Path(place.place), self._store.content)
            manifest, config = layout.read(place.tag)
            return _entries(manifest, config, layout.fetch)
        artifact = self._registries().artifact(Reference.parse(place.place))
        return _entries(artifact.manifest, artifact.config, artifact.fetch)

    # -- out ----------------------------------------------------------------------------------------------------------

    def save(self, places: Sequence[CachePlace]) -> None:
        """Write the steps of this build; ``CapsuleError`` where that fails, unless ``ignore-error=true``."""
        for place in places:
            label, started = Label(f"exporting cache to {place.kind} {place.place}"), time.monotonic()
            self._tell(label.event("start"))
            try:
                manifest, config = self._artifact(place)
                if place.kind == "local":
                    Layout(Path(place.place), self._store.content).write(manifest, config, place.tag)
                else:
                    self._registries().push_artifact(Reference.parse(place.place), manifest)
            except CapsuleError as error:
                self._tell(label.event("failed", text=error.message, seconds=time.monotonic() - started))
                if not place.ignore_error:
                    raise
                self._warnings.append(f"cache_to={place.text}: {error.message}")
            else:
                self._tell(label.event("done", seconds=time.monotonic() - started))

    def _artifact(self, place: CachePlace) -> tuple[Manifest, bytes]:
        layers: dict[Digest, Descriptor] = {}
        steps: dict[str, dict[str, Any]] = {}
        for key in sorted(self._given if place.whole else self._chain()):
            step, result = self._given[key]
            steps[step.cached_as] = {"created": result.created, "milliseconds": round(result.seconds * 1000)}
            if result.layer is not None:
                blob, diff_id = self._packing.pack_layer(result.layer)
                layers[blob.digest] = blob
                steps[step.cached_as] |= {"layer": str(blob.digest), "diff_id": str(diff_id)}
        config = write_object({"steps": steps})
        self._store.content.add(config)
        descriptor = Descriptor.of(config, _CONFIG)
        return Manifest(descriptor, tuple(layers.values()), artifact_type=ARTIFACT), config

    def _chain(self) -> Iterable[str]:
        """The steps of the image itself, without those of the stages that it copies from."""
        key = self._last
        while key in self._given:
            yield key
            key = self._given[key][0].parent

    def warn(self) -> None:
        """Tell of what could not be used."""
        for text in self._warnings:
            self._tell(BuildEvent("warning", "cache", text=text))


def _entries(manifest: Manifest, config: bytes, fetch: Callable[[Descriptor], None]) -> dict[str, _Entry]:
    if manifest.artifact_type != ARTIFACT:
        raise MalformedImage("it is no cache", document="manifest", field="artifactType")
    layers = {layer.digest: layer for layer in manifest.layers}
    found = {}
    steps = read_object(config, "cache config").object("steps")
    for key in steps.values:
        step = steps.object(key)
        created, seconds = step.text("created"), step.number("milliseconds") / 1000
        if not step.has("layer"):
            found[key] = _Entry(None, None, created, seconds, fetch)
            continue
        layer = layers.get(step.digest("layer"))
        if layer is None:
            step.fail("names no layer of the manifest", "layer")
        found[key] = _Entry(layer, step.digest("diff_id"), created, seconds, fetch)
    return found
