"""Descriptors: what a blob is, how large, and under which digest; and the media types that they name."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_capsule.errors import MalformedImage
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.document import JsonObject, present, sorted_map
from pytest_capsule.oci.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"

INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)

# What an entry of an index is called: in full, as containerd and Docker have it, and often only the tag.
FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

# Layers that a registry does not serve itself but points to with urls (Windows base layers).
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

_FOREIGN = (_OCI_FOREIGN, _OCI_FOREIGN + "+gzip", _OCI_FOREIGN + "+zstd", _DOCKER_FOREIGN_GZIP)

_COMPRESSIONS = {
    OCI_LAYER: "none",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    _OCI_FOREIGN: "none",
    _OCI_FOREIGN + "+gzip": "gzip",
    _OCI_FOREIGN + "+zstd": "zstd",
    _DOCKER_FOREIGN_GZIP: "gzip",
}

# RFC 6838, section 4.2.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(f"{_NAME}/{_NAME}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob: its ``media_type``, ``digest`` and ``size`` in bytes.

    ``platform`` is set in an index, ``urls`` are further places to get it from, ``data`` is the blob itself where the
    document carries it, ``extra`` the keys that we do not know. Source: OCI image-spec, descriptor.md.
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    data: bytes | None = None
    platform: Platform | None = None
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Descriptor:
        """The descriptor of ``data``."""
        return cls(media_type, Digest.of(data), len(data))

    @classmethod
    def read(cls, source: JsonObject) -> Descriptor:
        """Take it out of its JSON object. Raises ``MalformedImage`` that names the field."""
        media_type = source.text("mediaType")
        if _MEDIA_TYPE.fullmatch(media_type) is None:
            source.fail(f"{media_type!r} is no media type", "mediaType")
        if not source.has("size"):
            source.fail("missing", "size")
        size = source.number("size")
        if size < 0:
            source.fail(f"must not be negative, is {size}", "size")
        digest = source.digest("digest")
        platform = source.object("platform")
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            urls=source.texts("urls"),
            annotations=source.text_map("annotations"),
            data=_read_data(source, digest, size),
            platform=_read_platform(platform) if source.has("platform") else None,
            artifact_type=source.text("artifactType"),
            extra=source.rest(),
        )

    def write(self) -> dict[str, Any]:
        """The JSON object of it, keys in the order of the specification."""
        pairs = (
            ("urls", list(self.urls)),
            ("annotations", sorted_map(self.annotations)),
            ("data", None if self.data is None else base64.b64encode(self.data).decode("ascii")),
            ("platform", _write_platform(self.platform) if self.platform else None),
            ("artifactType", self.artifact_type),
        )
        required = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        return {**required, **present(pairs, self.extra)}

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called in the index of an image layout: in full, and in short, which may be a tag alone."""
        return tuple(name for key in (FULL_NAME, REF_NAME) if (name := self.annotations.get(key)))

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that registries do not serve themselves."""
        return self.media_type in _FOREIGN

    @property
    def compression(self) -> str:
        """How a layer is packed: "none", "gzip" or "zstd". Raises ``MalformedImage`` where this is no layer."""
        try:
            return _COMPRESSIONS[self.media_type]
        except KeyError:
            raise MalformedImage(
                f"{self.media_type!r} is no layer of an image", document="descriptor", field="mediaType"
            ) from None


def _read_data(source: JsonObject, digest: Digest, size: int) -> bytes | None:
    text = source.text("data")
    if not source.has("data"):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        source.fail(f"not valid base64: {error}", "data")
    if len(data) != size or Digest.of(data, digest.algorithm) != digest:
        source.fail("does not have the size and the digest that stand beside it", "data")
    return data


def _read_platform(source: JsonObject) -> Platform:
    return Platform(
        os=source.text("os"),
        architecture=source.text("architecture"),
        variant=source.text("variant"),
        os_version=source.text("os.version"),
        os_features=source.texts("os.features"),
    )


def _write_platform(platform: Platform) -> dict[str, Any]:
    pairs = (
        ("os.version", platform.os_version),
        ("os.features", list(platform.os_features)),
        ("variant", platform.variant),
    )
    return {"architecture": platform.architecture, "os": platform.os, **present(pairs, {})}
