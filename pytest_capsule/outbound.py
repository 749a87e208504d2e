"""Ways out for containers: what ``network="bridge"`` gives, and a network with ``outbound``."""

from __future__ import annotations

import os
import select
import shutil
import socket
from typing import TYPE_CHECKING

from pytest_capsule._linux import channel
from pytest_capsule.errors import UnsupportedHost
from pytest_capsule.network import outbound

if TYPE_CHECKING:
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.supervisor import Supervisor

_PATIENCE = 5  # seconds for a program to end


class Outbound:
    """Ways out of containers' networks, each kept open by a program that the host has for it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def open(self, container: Container) -> None:
        """Give a container a way out until it is closed; ``UnsupportedHost`` where no program here can."""
        installed = [path for name in outbound.PROGRAMS if (path := shutil.which(name))]
        if not installed:
            raise UnsupportedHost(
                f"a way out for container {container.name} needs slirp4netns or pasta, and neither is installed",
                hint='apt-get install slirp4netns, or network="host"',
            )
        failures: list[OSError] = []
        for program in installed:
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
