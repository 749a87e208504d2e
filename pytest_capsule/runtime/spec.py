"""What init needs to know to furnish a container: values with nothing left to decide, sent as one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Overlay:
    """One overlay of a root filesystem: directories, topmost first, mounted at ``target``.

    ``upper`` and ``work`` are directories to be made on disk; without them the writable layer is in memory. An image
    has one overlay at ``/``; one that shows directories of the host has one more for each of those. ``copied``: where
    the host can mount no overlay, the layers are copied into ``upper`` instead.
    """

    target: str
    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    copied: bool = False

    def message(self) -> dict[str, Any]:
        """As init gets it."""
        return {
            "target": self.target,
            "lowers": self.lowers,
            "upper": self.upper,
            "work": self.work,
            "copied": self.copied,
        }


@dataclass(frozen=True, slots=True)
class VolumeMount:
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

    def message(self) -> dict[str, Any]:
        """As init gets it."""
        return {
            "kind": "volume",
            "target": self.target,
            "source": self.source,
            "read_only": self.read_only,
            "no_exec": self.no_exec,
            "fill": self.fill,
            "own": self.own,
            "options": dict(self.options),
        }


@dataclass(frozen=True, slots=True)
class TreeMount:
    """What lies at ``source`` in a tree of overlays (the first at ``/``), to be seen at ``target``."""

    target: str
    overlays: tuple[Overlay, ...]
    source: str = "/"
    read_only: bool = True

    def message(self) -> dict[str, Any]:
        """As init gets it."""
        return {
            "kind": "tree",
            "target": self.target,
            "overlays": [overlay.message() for overlay in self.overlays],
            "source": self.source,
            "read_only": self.read_only,
        }


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that is in memory only, and can be read at ``target``."""

    target: str
    content: bytes
    mode: int
    uid: int
    gid: int

    def message(self) -> dict[str, Any]:
        """As init gets it."""
        content = self.content.decode("latin-1")  # a byte is a character, so that JSON can carry it
        return {"kind": "secret", "target": self.target, "content": content, **_access(self)}


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A Unix socket at ``target`` whose listening end the engine is given (init's ``listeners``, in their order)."""

    target: str
    mode: int
    uid: int
    gid: int

    def message(self) -> dict[str, Any]:
        """As init gets it."""
        return {"kind": "socket", "target": self.target, **_access(self)}


def _access(file: SecretFile | ListeningSocket) -> dict[str, int]:
    return {"mode": file.mode, "uid": file.uid, "gid": file.gid}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A network to join: the number of its hub at the supervisor, and the arguments of ``network.bridge.attach``."""

    hub: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """Everything that a container is, before any command runs in it.

    ``env`` is the whole environment of its commands but HOME, which the user decides; ``files`` are texts to be seen at
    a path whatever the image has there; ``mounts`` are those of one build step, in the order in which they are placed:
    no mount point that they need stays in the writable layer (init's ``sweep``). ``isolated``: the host is not reached
    by its name either; ``reaches_host``: the way to it is there before anybody asks. ``bare`` leaves out ``/dev``,
    ``/proc``, ``/sys``, files, volumes and mounts, for steps of a build that only place files; ``modules`` are what
    init must have imported for that. ``feigns_root``: commands find that they may chown and become any user, for a
    container that has a single id.
    """

    overlays: tuple[Overlay, ...]
    hostname: str = "capsule"
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    files: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[VolumeMount, ...] = ()
    mounts: tuple[VolumeMount | TreeMount | SecretFile | ListeningSocket, ...] = ()
    networks: tuple[Attachment, ...] = ()
    host_network: bool = False
    isolated: bool = False
    reaches_host: bool = False
    read_only: bool = False
    privileged: bool = False
    capabilities: frozenset[str] = frozenset()
    bare: bool = False
    modules: tuple[str, ...] = ()
    feigns_root: bool = False

    def variant(self) -> dict[str, Any]:
        """The part that is decided when init is forked: see ``variants``."""
        return {
            "privileged": self.privileged,
            "host_network": self.host_network,
            "capabilities": sorted(self.capabilities),
        }

    def message(self) -> dict[str, Any]:
        """The part that init gets when it is furnished."""
        return {
            "overlays": [overlay.message() for overlay in self.overlays],
            "hostname": self.hostname,
            "workdir": self.workdir,
            "files": dict(self.files),
            "volumes": [volume.message() for volume in self.volumes],
            "mounts": [mount.message() for mount in self.mounts],
            "networks": [dict(network.arguments) for network in self.networks],
            "isolated": self.isolated,
            "reaches_host": self.reaches_host,
            "read_only": self.read_only,
            "privileged": self.privileged,
            "capabilities": sorted(self.capabilities),
            "bare": self.bare,
            "feigns_root": self.feigns_root,
        }
