"""Ways out for containers: what ``network="bridge"`` gives, and a network with ``outbound``."""

from __future__ import annotations

import os
import select
import shutil
import socket
import warnings
from typing import TYPE_CHECKING

from pytest_capsule._linux import capabilities, channel
from pytest_capsule.errors import CapsuleWarning, UnsupportedHost
from pytest_capsule.locations import Location
from pytest_capsule.network import outbound

if TYPE_CHECKING:
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.supervisor import Supervisor
    from pytest_capsule.spec import ContainerSpec

INSTALL = "apt-get install slirp4netns"
_MISSING = "neither slirp4netns nor pasta is installed"
_OVER_THE_NETWORK = frozenset(("NET_ADMIN", "NET_RAW"))
"""Capabilities that mean a network of the container's own: on the host's they change it, and read what others say."""

_PATIENCE = 5  # seconds for a program to end


def installed() -> list[str]:
    """The paths of the programs that this host has for it, the one to try first at the front."""
    return [path for name in outbound.PROGRAMS if (path := shutil.which(name))]


def on_host_instead(location: Location, spec: ContainerSpec, name: str) -> Location:
    """The host's network for a container that is to have a way out where no program for one is installed.

    ``UnsupportedHost`` where that would be another thing than was asked for.
    """
    if reason := _own_network_for(location, spec):
        raise UnsupportedHost(
            f"no way out for container {name}: {_MISSING}, and the host's network cannot stand in: {reason}",
            hint=f'{INSTALL}; or ask for network="host" by its name',
        )
    return Location(on_host=True, withheld=_OVER_THE_NETWORK)


def _own_network_for(location: Location, spec: ContainerSpec) -> str:
    """What a container needs a network of its own for; empty where it needs none."""
    if location.membership is not None:
        return f"it is to be on network {location.membership.network.name}"
    if spec.ports:
        return "it publishes ports"
    if spec.privileged:
        return "it is privileged"
    added = {capabilities.canonical(capability) for capability in spec.cap_add}
    if found := sorted(added & (_OVER_THE_NETWORK | {"ALL"})):
        return f"it has the capability {found[0]}"
    return ""


class Outbound:
    """Ways out of containers' networks, each kept open by a program that the host has for it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._warned = False

    def warn(self) -> None:
        """Say, once, that containers are on the host's network for want of a way out."""
        if not self._warned:
            warnings.warn(
                f'{_MISSING}: containers with network="bridge" are on the host\'s network instead. They reach all that '
                "listens on this machine, what they serve is served on its addresses, and their ports can clash. "
                f"{INSTALL} gives them a network of their own",
                CapsuleWarning,
                stacklevel=2,
            )
            self._warned = True

    def open(self, container: Container) -> None:
        """Give a container a way out until it is closed; ``UnsupportedHost`` where no program here can."""
        failures: list[OSError] = []
        for program in installed():
            try:
                self._open(container, program)
                return
            except OSError as error:
                failures.append(error)
        raise UnsupportedHost(
            f"no way out for container {container.name}: "
            + "; ".join(f"{os.path.basename(str(error.filename))}: {error.strerror}" for error in failures),
            hint="where /dev/net/tun is at fault: chmod 0666 /dev/net/tun, as root",
        )

    def _open(self, container: Container, program: str) -> None:
        control, pidfd = self._supervisor.serve("pytest_capsule.network.outbound", "serve")
        network = container.network_namespace()
        try:
            channel.call(control, {"program": program, "interface": container.outbound}, [network])
        except BaseException:
            _end(control, pidfd)
            raise
        finally:
            os.close(network)
        container.on_close(lambda: _end(control, pidfd))


def _end(control: socket.socket, pidfd: int) -> None:
    """Let the program end, and wait for it."""
    control.close()
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    ended.poll(_PATIENCE * 1000)
    os.close(pidfd)
