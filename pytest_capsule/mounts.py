"""The mounts of a RUN as its container gets them, from what the build says of them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from pytest_capsule._linux import channel
from pytest_capsule.build import steps
from pytest_capsule.network.agent import AgentRelay
from pytest_capsule.runtime.spec import ListeningSocket, Overlay, SecretFile, TreeMount, VolumeMount
from pytest_capsule.store.rootfs import lower_directories

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_capsule.runtime.container import Container
    from pytest_capsule.store.image import Tree
    from pytest_capsule.store.store import Store

    RuntimeMount = VolumeMount | TreeMount | SecretFile | ListeningSocket


def in_container(mounts: Sequence[steps.Mount], store: Store, scratch: Path) -> tuple[RuntimeMount, ...]:
    """The mounts for a container's spec; what is written to a tree goes to ``scratch``."""
    return tuple(_in_container(mount, store, scratch / f"mount{number}") for number, mount in enumerate(mounts))


def _in_container(mount: steps.Mount, store: Store, scratch: Path) -> RuntimeMount:
    if isinstance(mount, steps.TreeMount):
        written = None if mount.read_only else scratch
        if written is not None:
            written.mkdir()
        return TreeMount(mount.target, stacked(mount.tree, store.empty, written), mount.source, mount.read_only)
    if isinstance(mount, steps.FolderMount):
        return VolumeMount(mount.target, str(mount.folder), read_only=mount.read_only)
    if isinstance(mount, steps.MemoryMount):
        options = {"size": str(mount.size)} if mount.size else {}
        return VolumeMount(mount.target, read_only=mount.read_only, options=options)
    if isinstance(mount, steps.SecretMount):
        return SecretFile(mount.target, mount.content, mount.mode, mount.uid, mount.gid)
    return ListeningSocket(mount.target, mount.mode, mount.uid, mount.gid)


def stacked(tree: Tree, bottom: Path, scratch: Path | None = None) -> tuple[Overlay, ...]:
    """The overlays of a tree over the folder ``bottom``, what is written in ``scratch``, or in memory."""
    found = []
    for number, (target, lowers) in enumerate(lower_directories(tree, bottom).items()):
        suffix = str(number or "")
        if scratch is None:
            found.append(Overlay(target, lowers))
        else:
            found.append(Overlay(target, lowers, str(scratch / f"fs{suffix}"), str(scratch / f"work{suffix}")))
    return tuple(found)


@contextlib.contextmanager
def relayed(mounts: Sequence[steps.Mount], container: Container) -> Iterator[None]:
    """Answer on the sockets of ``container`` that stand for SSH agents."""
    agents = [mount.agent for mount in mounts if isinstance(mount, steps.AgentMount)]
    with contextlib.ExitStack() as relays:
        if agents:
            listeners = channel.call(container.requests, {"op": "listeners"})[1]
            for listener, agent in zip(listeners, agents, strict=True):
                relays.enter_context(AgentRelay(socket.socket(fileno=listener), agent))
        yield


def sweep(container: Container) -> None:
    """Remove the mount points that had to be made from what becomes a layer."""
    channel.call(container.requests, {"op": "sweep"})
