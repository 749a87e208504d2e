"""Networks that containers share, and the ports of containers on the host: what ``Engine.network`` gives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

from pytest_capsule._linux import channel
from pytest_capsule.errors import CapsuleError, UsageError
from pytest_capsule.network import bridge, forwarder, names
from pytest_capsule.network.addresses import AddressPool, Host, Subnet
from pytest_capsule.network.ports import PortMapping, listen
from pytest_capsule.runtime.spec import Attachment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.supervisor import Supervisor

_HOSTS_LIMIT = 1 << 20


class Network:
    """A network of its own: containers on it reach each other by name, and nobody else reaches them.

    It is a network namespace with a bridge, which the host's network does not know of.
    """

    def __init__(self, supervisor: Supervisor, name: str, number: int) -> None:
        self.name = name
        self._supervisor = supervisor
        self._number = number
        self._closed = False
        self.subnet = Subnet(number, ipv6=bridge.ipv6_available())
        self._pool = AddressPool(self.subnet)
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._members: dict[str, tuple[names.HostEntry, Container | None]] = {}
        gateway = self.subnet.gateway
        supervisor.make_hub(number, gateway.addresses, gateway.mac)

    def join(self, name: str, aliases: Sequence[str] = ()) -> tuple[Host, Attachment]:
        """Take an address for a container that is about to start; ``UsageError`` when its name is taken."""
        with self._lock:
            if self._closed:
                raise UsageError(f"network {self.name} is closed")
            if name in self._members:
                raise UsageError(f"there is a container {name} on network {self.name} already", hint="close it first")
            host = self._pool.take()
            self._members[name] = (names.HostEntry(host.ipv4, (name, *aliases)), None)
        arguments = {
            "port": f"c{host.number}",
            "mac": host.mac,
            "addresses": host.addresses,
            "gateways": [self.subnet.gateway.ipv4],
        }
        return host, Attachment(self._number, arguments)

    def entries(self, *, but: str = "") -> list[names.HostEntry]:
        """The names of all containers on it, but of one."""
        with self._lock:
            return [entry for name, (entry, _) in self._members.items() if name != but]

    def add(self, container: Container, host: Host) -> None:
        """A container that has joined is there: tell the others its name, and it those that came while it started."""
        with self._telling:
            with self._lock:
                entry, _ = self._members[container.name]
                self._members[container.name] = (entry, container)
            _note_names(container, add=self.entries(but=container.name))
            for other in self._others(container.name):
                _note_names(other, add=[entry])
        container.on_close(lambda: self._leave(container.name, host))

    def _others(self, name: str) -> list[Container]:
        with self._lock:
            return [other for key, (_, other) in self._members.items() if key != name and other is not None]

    def _leave(self, name: str, host: Host) -> None:
        with self._lock:
            entry, container = self._members.pop(name, (None, None))
        if entry is None:
            return
        if container is not None:  # a container that comes under the name has another address
            with self._telling:
                for other in self._others(name):
                    _note_names(other, remove=[entry])
        with self._lock:
            self._pool.give_back(host)

    def abandon(self, name: str, host: Host) -> None:
        """Give back what ``join`` took: the container did not start."""
        self._leave(name, host)

    def close(self) -> None:
        """Give it back; it lives on while a container is on it."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            with contextlib.suppress(CapsuleError):  # the supervisor has died, and the network with it
                self._supervisor.drop_hub(self._number)

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Network {self.name} {self.subnet}>"


def _note_names(
    container: Container, *, add: Sequence[names.HostEntry] = (), remove: Sequence[names.HostEntry] = ()
) -> None:
    """Change lines of a container's ``/etc/hosts``; what else stands there stays. One that is going needs none."""
    with contextlib.suppress(OSError, CapsuleError), container.open("/etc/hosts", "r+b") as file:
        lines = file.read(_HOSTS_LIMIT).splitlines()
        dropped = {str(entry).encode() for entry in remove}
        kept = [line for line in lines if line not in dropped]
        kept += [line for line in (str(entry).encode() for entry in add) if line not in kept]
        if kept != lines:
            file.seek(0)
            file.write(b"".join(line + b"\n" for line in kept))
            file.truncate()


class Ports:
    """Ports of containers on the host's loopback, carried by one forwarder process an engine."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pidfd = -1
        self._count = 0

    def publish(self, container: Container, mapping: PortMapping) -> tuple[str, int]:
        """Listen on the host for a port inside; returns where. Unpublished when the container closes."""
        request = channel.encode({"op": "connect", "port": mapping.port, "udp": mapping.protocol == "udp"})
        with listen(mapping) as listener, self._lock:
            if self._control is None:
                self._control, self._pidfd = self._supervisor.serve("pytest_capsule.network.forwarder", "serve")
            self._count += 1
            key = f"{self._count}"
            place = listener.getsockname()
            forwarder.publish(self._control, key, listener, container.requests, request)
        container.on_close(lambda: self._unpublish(key))
        return place[0], place[1]

    def _unpublish(self, key: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                forwarder.unpublish(self._control, key)

    def close(self) -> None:
        """End the forwarder."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                os.close(self._pidfd)


def host_resolv_conf() -> str:
    """The host's own ``/etc/resolv.conf``, for containers on its network; empty where there is none."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
