"""What init needs to know to furnish a container: values with nothing left to decide, sent as one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import capabilities

if TYPE_CHECKING:
    from collections.abc import Mapping


PLAIN: dict[str, Any] = {
    "privileged": False,
    "host_network": False,
    "capabilities": sorted(capabilities.DEFAULT),
}
"""What is decided when a blank container is forked, as nearly every container wants it."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """One overlay of a root filesystem: directories, topmost first, mounted at ``target``.

    ``upper`` and ``work`` are directories to be made on disk; without them the writable layer is in memory. An image
    has one overlay at ``/``; one that shows directories of the host has one more for each of those.
    """

    target: str
    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory or file of the host bound at ``target``, or, with no ``source``, a tmpfs with ``options``.

    ``fill`` copies what the image has there to the directory while that is empty; ``own`` is a directory in the
    container's own memory that begins so.
    """

    target: str
    source: str | None = None
    read_only: bool = False
    no_exec: bool = False
    fill: bool = False
    own: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A network to join: the number of its hub at the supervisor, and the arguments of ``network.bridge.attach``."""

    hub: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """Everything that a container is, before any command runs in it.

    ``env`` is the whole environment of its commands but HOME, which the user decides; ``files`` are texts to be seen at
    a path whatever the image has there; ``bare`` leaves out ``/dev``, ``/proc``, ``/sys``, files and volumes, for steps
    of a build that only place files; ``modules`` are what init must have imported for that. ``feigns_root``: commands
    find that they may chown and become any user, for a container that has a single id.
    """

    overlays: tuple[Overlay, ...]
    hostname: str = "capsule"
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    files: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    networks: tuple[Attachment, ...] = ()
    host_network: bool = False
    reaches_host: bool = False
    read_only: bool = False
    privileged: bool = False
    capabilities: frozenset[str] = frozenset()
    bare: bool = False
    modules: tuple[str, ...] = ()
    feigns_root: bool = False

    def variant(self) -> dict[str, Any]:
        """The part that is decided when init is forked: see ``PLAIN``."""
        return {
            "privileged": self.privileged,
            "host_network": self.host_network,
            "capabilities": sorted(self.capabilities),
        }

    def message(self) -> dict[str, Any]:
        """The part that init gets when it is furnished."""
        return {
            "overlays": [
                {"target": overlay.target, "lowers": overlay.lowers, "upper": overlay.upper, "work": overlay.work}
                for overlay in self.overlays
            ],
            "hostname": self.hostname,
            "workdir": self.workdir,
            "files": dict(self.files),
            "volumes": [
                {
                    "target": volume.target,
                    "source": volume.source,
                    "read_only": volume.read_only,
                    "no_exec": volume.no_exec,
                    "fill": volume.fill,
                    "own": volume.own,
                    "options": dict(volume.options),
                }
                for volume in self.volumes
            ],
            "networks": [dict(network.arguments) for network in self.networks],
            "reaches_host": self.reaches_host,
            "read_only": self.read_only,
            "privileged": self.privileged,
            "capabilities": sorted(self.capabilities),
            "bare": self.bare,
            "feigns_root": self.feigns_root,
        }
