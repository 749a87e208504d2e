"""An image as the store keeps it: its config and the directories that its layers are."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_capsule.oci.config import ImageConfig
    from pytest_capsule.oci.descriptor import Descriptor
    from pytest_capsule.oci.manifest import Manifest

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in overlay form.

    ``id`` is its name in the store, ``path`` the directory that holds its files: the store's own, or one of the host
    that is used as it stands (``rootfs:PATH``). ``size`` is in bytes, and 0 for what is not the store's. ``origin`` is
    what it came from, where another store can have the same from there: a digest, or the key of a built-in image.
    ``stamp`` is a digest of the names, modes, sizes and times of its files as they were when it was made. An ``opaque``
    one hides all that lies below it.
    """

    id: str
    path: str
    size: int = 0
    origin: str = ""
    stamp: str = ""
    opaque: bool = False


def visible(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Those of which something can be seen, the topmost first.

    An overlay filesystem knows opaque directories, and takes no notice where that is the whole layer.
    """
    for layer in reversed(layers):
        yield layer
        if layer.opaque:
            return


@dataclass(frozen=True, slots=True)
class Tree:
    """A root filesystem: layers from the bottom, and the directories shown from the host beneath them."""

    layers: tuple[Layer, ...] = ()
    host_directories: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether it is the store's alone, so that it never changes: nothing is shown from the host."""
        return not self.host_directories and not any(layer.id.startswith("/") for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Packed:
    """An image in OCI form: all blobs that its manifest names are in the store's content.

    ``descriptor`` is that of the manifest, ``data`` its bytes; ``config`` is the config whose digest it names.
    """

    descriptor: Descriptor
    data: bytes
    manifest: Manifest
    config: ImageConfig


class Packer(Protocol):
    """Finds out digests of images (``store.packing``)."""

    def identify(self, image: Image) -> str:
        """The digest of the image's config."""

    def pack(self, image: Image) -> Packed:
        """The image in OCI form."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image, ready to be run; two are equal that have the same id.

    ``key`` is what the store keeps it under: the digest of its config, if it is ``digested``, else one of what it is
    made of here. ``layers`` are ordered from the bottom. ``host_directories`` are shown beneath them, from the host.
    ``tags`` are the references that name it, in Docker's short form. ``packer`` gives what finds out its digests.
    """

    key: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    packer: Callable[[], Packer] = field(repr=False)
    host_directories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    digested: bool = False

    @property
    def id(self) -> str:
        """The digest of its config, ``sha256:`` and 64 hexadecimal digits: as in Docker, and the same wherever it is.

        Of an image that was made here, its layers are read through when this is asked for the first time.
        """
        return self.key if self.digested else self.packer().identify(self)

    def settled(self) -> Image:
        """The same with its id found out, which can then be told when the engine is closed."""
        return replace(self, key=self.id, digested=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return self.key == other.key or (self._files == other._files and self.id == other.id)

    def __hash__(self) -> int:
        return hash(self._files)

    @property
    def _files(self) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
        return self.layers, self.host_directories

    def packed(self) -> Packed:
        """It in OCI form; the tars of layers that were made here are written now, once."""
        return self.packer().pack(self)

    @property
    def digest(self) -> str:
        """The digest of its manifest, ``sha256:...``, by which a registry names it."""
        return str(self.packed().descriptor.digest)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of its layers' uncompressed tars, the bottom first."""
        return tuple(map(str, self.packed().config.diff_ids))

    @property
    def tree(self) -> Tree:
        """Its files, without its config."""
        return Tree(self.layers, self.host_directories)

    @property
    def short_id(self) -> str:
        """The twelve digits that Docker prints."""
        return self.id.removeprefix("sha256:")[:12]

    @property
    def size(self) -> int:
        """The bytes of all layers in the store."""
        return sum(layer.size for layer in self.layers)

    @property
    def name(self) -> str:
        """What to call it: its first tag, else its short id."""
        return self.tags[0] if self.tags else self.short_id

    def __str__(self) -> str:
        return self.name


def now() -> str:
    """This moment as image configs write it: RFC 3339, in UTC."""
    moment = datetime.datetime.now(datetime.timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def moment(text: str) -> datetime.datetime | None:
    """The time that an image config writes (RFC 3339, to whole seconds); ``None`` where it has none."""
    found = _RFC3339.fullmatch(text)
    if found is None or found[1].startswith("0001-"):
        return None
    return datetime.datetime.fromisoformat(found[1] + (found[2] if found[2] != "Z" else "+00:00"))


def identify(config: ImageConfig, layers: tuple[Layer, ...], host_directories: tuple[str, ...]) -> str:
    """The key of an image: what it is made of, so that a build from the cache gives the same one again."""
    made_of: list[Any] = [config.to_json().decode(), [layer.id for layer in layers], list(host_directories)]
    return "sha256:" + hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
