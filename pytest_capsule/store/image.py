"""An image as the store keeps it: its config and the directories that its layers are."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from pytest_capsule.oci.config import ImageConfig


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in overlay form.

    ``id`` is its name in the store, ``path`` the directory that holds its files: the store's own, or one of the host
    that is used as it stands (``rootfs:PATH``). ``size`` is in bytes, and 0 for what is not the store's.
    """

    id: str
    path: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """A root filesystem: layers from the bottom, and the directories shown from the host beneath them."""

    layers: tuple[Layer, ...] = ()
    host_directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """An image, ready to be run: ``id`` is ``sha256:`` and 64 hexadecimal digits.

    ``layers`` are ordered from the bottom. ``host_directories`` are shown beneath them, from the host.
    ``tags`` are the references that name it, in Docker's short form.
    """

    id: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    host_directories: tuple[str, ...] = ()
    tags: tuple[str, ...] = field(default=(), compare=False)

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


def identify(config: ImageConfig, layers: tuple[Layer, ...], host_directories: tuple[str, ...]) -> str:
    """The id of an image: what it is made of, so that a build from the cache gives the same one again."""
    made_of: list[Any] = [config.to_json().decode(), [layer.id for layer in layers], list(host_directories)]
    return "sha256:" + hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
