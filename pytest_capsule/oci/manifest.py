"""Manifests and indexes, of the OCI and of Docker's schema 2.

Their digest is taken over the bytes as served, so what came from a registry is kept as bytes; ``to_json`` is for what
we make ourselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_capsule.errors import ImageNotFound, MalformedImage
from pytest_capsule.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, Descriptor
from pytest_capsule.oci.document import JsonObject, present, read_object, sorted_map, write_object

if TYPE_CHECKING:
    from pytest_capsule.oci.platform import Platform

_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: its config blob and its layers, the bottom first.

    Source: OCI image-spec, manifest.md; distribution, manifest-v2-2.md.
    """

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    media_type: str = OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""
    subject: Descriptor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: bytes, media_type: str | None = None) -> Manifest:
        """Read a manifest; ``media_type`` is what it was served as. Raises ``MalformedImage``."""
        return cls._read(read_object(data, "manifest"), media_type)

    @classmethod
    def _read(cls, source: JsonObject, media_type: str | None) -> Manifest:
        own_type = _check_head(source, media_type, MANIFEST_TYPES, OCI_MANIFEST)
        if not source.has("config"):
            source.fail("missing", "config")
        subject = source.object("subject")
        return cls(
            config=Descriptor.read(source.object("config")),
            layers=tuple(Descriptor.read(layer) for layer in source.objects("layers")),
            media_type=own_type,
            annotations=source.text_map("annotations"),
            artifact_type=source.text("artifactType"),
            subject=Descriptor.read(subject) if source.has("subject") else None,
            extra=source.rest(),
        )

    def to_json(self) -> bytes:
        """The manifest's bytes, indented by two as BuildKit writes them."""
        body = {"config": self.config.write(), "layers": [layer.write() for layer in self.layers]}
        return _write(self, body)


@dataclass(frozen=True, slots=True)
class Index:
    """Several images of one name, one a platform (Docker calls it a manifest list).

    Source: OCI image-spec, image-index.md.
    """

    manifests: tuple[Descriptor, ...] = ()
    media_type: str = OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""
    subject: Descriptor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: bytes, media_type: str | None = None) -> Index:
        """Read an index; ``media_type`` is what it was served as. Raises ``MalformedImage``."""
        return cls._read(read_object(data, "index"), media_type)

    @classmethod
    def _read(cls, source: JsonObject, media_type: str | None) -> Index:
        own_type = _check_head(source, media_type, INDEX_TYPES, OCI_INDEX)
        subject = source.object("subject")
        return cls(
            manifests=tuple(Descriptor.read(entry) for entry in source.objects("manifests")),
            media_type=own_type,
            annotations=source.text_map("annotations"),
            artifact_type=source.text("artifactType"),
            subject=Descriptor.read(subject) if source.has("subject") else None,
            extra=source.rest(),
        )

    def to_json(self) -> bytes:
        """The index's bytes, indented by two as BuildKit writes them."""
        return _write(self, {"manifests": [entry.write() for entry in self.manifests]})

    def choose(self, platform: Platform, *, reference: str = "") -> Descriptor:
        """The entry that fits ``platform`` best; the first of several equals.

        An entry that names no platform is taken where no other fits (containerd does the same). It may be an index in
        turn. Raises ``ImageNotFound``, which lists the platforms that there are; ``reference`` is the name for it.
        """
        ranked = [(rank, entry) for entry in self.manifests if (rank := _rank(entry, platform)) is not None]
        if ranked:
            return min(ranked, key=lambda pair: pair[0])[1]
        offered = dict.fromkeys(str(entry.platform) for entry in self.manifests if _is_image(entry))
        raise ImageNotFound(
            f"{reference or 'the image'} has nothing for {platform}; it is for {', '.join(offered) or 'no platform'}",
            reference=reference,
        )


def parse_manifest(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """Read what a registry serves under a tag: a manifest or an index.

    ``media_type`` is the Content-Type that it came with, or ``None``. Raises ``MalformedImage``.
    """
    source = read_object(data, "manifest")
    # Without this check one document could be read as two things (image-spec, CVE-2021-41190).
    if source.has("manifests") and (source.has("layers") or source.has("config")):
        source.fail("has the fields of a manifest and those of an index", "manifests")
    own_type = source.text("mediaType") or media_type
    is_index = own_type in INDEX_TYPES or (own_type not in MANIFEST_TYPES and source.has("manifests"))
    if is_index:
        return Index._read(JsonObject(source.values, "index"), media_type)
    return Manifest._read(JsonObject(source.values, "manifest"), media_type)


def find_manifest(
    descriptor: Descriptor,
    platform: Platform,
    read: Callable[[Descriptor], Manifest | Index],
    *,
    reference: str = "",
) -> tuple[Descriptor, Manifest]:
    """The manifest that ``descriptor`` means on ``platform``: its own, or the one that fits through indexes in indexes.

    ``read`` has the document of a descriptor. Raises ``ImageNotFound`` as ``Index.choose`` does, and ``MalformedImage``
    for indexes that go on and on.
    """
    for _ in range(_DEEPEST):
        found = read(descriptor)
        if isinstance(found, Manifest):
            return replace(descriptor, media_type=found.media_type), found
        descriptor = found.choose(platform, reference=reference)
    raise MalformedImage(f"more than {_DEEPEST} indexes within each other", document="index")


def _check_head(source: JsonObject, served_as: str | None, allowed: tuple[str, ...], default: str) -> str:
    """Check the version and the media type, and return the latter."""
    version = source.number("schemaVersion")
    if version == 1:
        hint = "it is of Docker's schema 1, which registries gave up in 2017; build and push the image anew"
        source.fail("version 1 is not supported", "schemaVersion", hint=hint)
    if version != 2:
        source.fail(f"must be 2, is {version}", "schemaVersion")
    own_type = source.text("mediaType")
    # manifest.md: the field and the Content-Type, where both are given, must be the same.
    if own_type and served_as and own_type != served_as:
        source.fail(f"says {own_type!r} and was served as {served_as!r}", "mediaType")
    media_type = own_type or served_as or default
    if media_type not in allowed:
        source.fail(f"{media_type!r} is not what was expected: {' or '.join(allowed)}", "mediaType")
    return media_type


def _write(value: Manifest | Index, body: Mapping[str, Any]) -> bytes:
    head = {"schemaVersion": 2, "mediaType": value.media_type}
    kind = {"artifactType": value.artifact_type} if value.artifact_type else {}
    pairs = (
        ("subject", value.subject.write() if value.subject else None),
        ("annotations", sorted_map(value.annotations)),
    )
    return write_object({**head, **kind, **body, **present(pairs, value.extra)}, indent=2)


def _rank(entry: Descriptor, platform: Platform) -> float | None:
    return float("inf") if entry.platform is None else platform.rank(entry.platform)


def _is_image(entry: Descriptor) -> bool:
    # BuildKit puts attestations into the index as manifests for the platform unknown/unknown.
    return entry.platform is not None and entry.platform.os != "unknown"
