"""Networks that containers share, and the ports of containers on the host: what ``Engine.network`` gives."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel
from pytest_capsule.errors import CapsuleError, UnsupportedHost, UsageError
from pytest_capsule.network import bridge, names
from pytest_capsule.network.addresses import AddressPool, Host, Subnet
from pytest_capsule.network.ports import PortMapping, listen
from pytest_capsule.runtime.spec import Attachment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.supervisor import Supervisor
    from pytest_capsule.runtime.worker import Worker

_HOSTS_LIMIT = 1 << 20
_ALONE = "127.0.0.1"
"""The address of a container that is on no network yet."""


@dataclass(slots=True)
class _Member:
    """A container on a network: its addresses, the lines that name it, and its interface there."""

    host: Host
    entries: list[names.HostEntry]
    container: Container | None = None
    interface: str = "eth0"


class Network:
    """A network of its own: containers on it reach each other by name, and nobody else reaches them.

    It is a network namespace with a bridge, which the host's network does not know of. With ``outbound`` what starts on
    it has an interface more, by which it reaches the outside.
    """

    def __init__(self, supervisor: Supervisor, wires: Worker, name: str, number: int, *, outbound: bool) -> None:
        self.name = name
        self.outbound = outbound
        self._supervisor = supervisor
        self._number = number
        self._closed = False
        self.subnet = Subnet(number, ipv6=bridge.ipv6_available())
        self._pool = AddressPool(self.subnet)
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._members: dict[str, _Member] = {}
        self._wires = wires
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
            try:
                self._members[name] = _Member(host, names.entries(host, (name, *aliases)))
            except UsageError:
                self._pool.give_back(host)
                raise
        arguments = {
            "port": _port(host),
            "mac": host.mac,
            "addresses": host.addresses,
            "gateways": [] if self.outbound else [self.subnet.gateway.ipv4],
        }
        return host, Attachment(self._number, arguments)

    def alias(self, *aliases: str) -> Membership:
        """For ``network=``: this network, on which the container is reached by these names beside its own."""
        return Membership(self, aliases)

    def entries(self, *, but: str = "") -> list[names.HostEntry]:
        """The names of all containers on it, but of one."""
        with self._lock:
            return [entry for name, member in self._members.items() if name != but for entry in member.entries]

    def add(self, container: Container, host: Host) -> None:
        """A container that has joined is there: tell the others its name, and it those that came while it started."""
        with self._telling:
            with self._lock:
                member = self._members[container.name]
                member.container = container
            _note_names(container, add=self.entries(but=container.name))
            for other in self._others(container.name):
                _note_names(other, add=member.entries)
        container.on_close(lambda: self._leave(container.name, host))

    def _others(self, name: str) -> list[Container]:
        with self._lock:
            found = [member.container for key, member in self._members.items() if key != name]
            return [container for container in found if container is not None]

    def _leave(self, name: str, host: Host) -> None:
        with self._lock:
            member = self._members.pop(name, None)
        if member is None:
            return
        if member.container is not None:  # a container that comes under the name has another address
            with self._telling:
                for other in self._others(name):
                    _note_names(other, remove=member.entries)
        with self._lock:
            self._pool.give_back(host)

    def abandon(self, name: str, host: Host) -> None:
        """Give back what ``join`` took: the container did not start."""
        self._leave(name, host)

    # -- faults -------------------------------------------------------------------------------------------------------

    def disconnect(self, container: Container) -> None:
        """Pull a container's cable: what it sends and what is for it is lost, while names and addresses stay.

        Clients see what they see of a machine that has gone: no answer, and no end. ``connect`` plugs it in again.
        """
        self._wire("set_port", _port(self._member(container).host), False)

    def connect(self, container: Container, *, aliases: Sequence[str] = ()) -> None:
        """Plug in again what ``disconnect`` pulled, or bring a running container of another network onto this one too.

        ``aliases`` are names for one that is new here, beside its own.
        """
        with self._lock:
            member = self._members.get(container.name)
        if member is not None and member.container is container:
            self._wire("set_port", _port(member.host), True)
            return
        if container.spec.host_network:
            raise UsageError(f"container {container.name} is on the host's network, which joins no other")
        host, attachment = self.join(container.name, aliases)
        try:
            with _namespace_of(container) as own:
                interface = self._wire("plug_in", dict(attachment.arguments), own=own)
        except BaseException:
            self.abandon(container.name, host)
            raise
        self._members[container.name].interface = interface
        _note_names(container, add=names.entries(host, (container.name, *aliases)))
        if container.ip == _ALONE:
            container.ip, container.ip6 = host.ipv4, host.ipv6
        self.add(container, host)

    def partition(self, *groups: Sequence[Container]) -> None:
        """Split the network: containers of one group reach each other and nobody else, the rest are a group too."""
        ports = [[_port(self._member(container).host) for container in group] for group in groups]
        named = {port for group in ports for port in group}
        if len(named) < sum(map(len, ports)):
            raise UsageError("partition(): a container is in two groups, or in one twice")
        with self._lock:
            rest = [port for member in self._members.values() if (port := _port(member.host)) not in named]
        self._wire("regroup", [rest, *ports])

    def heal(self) -> None:
        """Take back ``partition`` and every ``disconnect``."""
        with self._lock:
            ports = [_port(member.host) for member in self._members.values() if member.container is not None]
        self._wire("regroup", [ports])
        for port in ports:
            self._wire("set_port", port, True)

    def shape(
        self,
        container: Container,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        bandwidth: float | None = None,
    ) -> None:
        """Make a container's connection worse, in both directions; with no keyword it is as it was.

        ``latency`` and ``jitter`` are seconds each way, ``loss`` is the part of packets (0 to 1), ``bandwidth`` bits a
        second. ``UnsupportedHost`` where the kernel has no netem, or no tbf, which ``bandwidth`` needs.
        """
        if not (latency >= 0 and jitter >= 0 and 0 <= loss <= 1 and (bandwidth is None or bandwidth > 0)):
            raise UsageError("shape(): times are 0 or more, loss is from 0 to 1, bandwidth is more than 0")
        member = self._member(container)
        with _namespace_of(container) as own:
            try:
                self._wire(
                    "shape", _port(member.host), member.interface, [latency, jitter, loss, bandwidth or 0], own=own
                )
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                lacking, needs = (
                    ("netem", "latency and loss need") if latency or jitter or loss else ("tbf", "bandwidth needs")
                )
                raise UnsupportedHost(
                    f"this kernel has no {lacking}, which {needs}",
                    syscall="RTM_NEWQDISC",
                    errno=errno.ENOENT,
                    hint=f"modprobe sch_{lacking} as root; disconnect() and partition() need none",
                ) from None

    def _member(self, container: Container) -> _Member:
        with self._lock:
            member = self._members.get(container.name)
        if member is None or member.container is not container:
            raise UsageError(f"container {container.name} is not on network {self.name}")
        return member

    def _wire(self, function: str, *args: object, own: int | None = None) -> Any:
        hub = self._supervisor.hub_namespace(self._number)
        try:
            descriptors = [hub] if own is None else [hub, own]
            return self._wires.call("pytest_capsule.network.wiring", function, *args, descriptors=descriptors)
        finally:
            os.close(hub)

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


def _port(host: Host) -> str:
    """The name of a container's port on the hub's bridge."""
    return f"c{host.number}"


@contextlib.contextmanager
def _namespace_of(container: Container) -> Iterator[int]:
    namespace = container.network_namespace()
    try:
        yield namespace
    finally:
        os.close(namespace)


def _note_names(
    container: Container, *, add: Sequence[names.HostEntry] = (), remove: Sequence[names.HostEntry] = ()
) -> None:
    """Change lines of a container's ``/etc/hosts``; what else stands there stays. One that is going needs none."""
    for sharing in container.sharing:
        _note_names(sharing, add=add, remove=remove)
    with contextlib.suppress(OSError, CapsuleError), container.open("/etc/hosts", "r+b") as file:
        lines = file.read(_HOSTS_LIMIT).splitlines()
        dropped = {str(entry).encode() for entry in remove}
        kept = [line for line in lines if line not in dropped]
        kept += [line for line in (str(entry).encode() for entry in add) if line not in kept]
        if kept != lines:
            file.seek(0)
            file.write(b"".join(line + b"\n" for line in kept))
            file.truncate()


@dataclass(frozen=True, slots=True)
class Membership:
    """A network with the names that a container has on it beside its own: what ``Network.alias`` gives."""

    network: Network
    aliases: tuple[str, ...] = ()

    def join(self, name: str, aliases: Sequence[str] = ()) -> tuple[Host, Attachment]:
        """``Network.join``, with these names too."""
        return self.network.join(name, [*aliases, *self.aliases])


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
        from pytest_capsule.network import forwarder

        request = channel.encode({"op": "connect", "port": mapping.port, "udp": mapping.protocol == "udp"})
        with listen(mapping) as listener, self._lock:
            self._count += 1
            key = f"{self._count}"
            place = listener.getsockname()
            try:
                forwarder.publish(self._forwarder(), key, listener, container.requests, request)
            except BrokenPipeError:  # it was killed, or died with its supervisor
                self._end()
                forwarder.publish(self._forwarder(), key, listener, container.requests, request)
        container.on_close(lambda: self._unpublish(key))
        return place[0], place[1]

    def _forwarder(self) -> socket.socket:
        if self._control is None:
            self._control, self._pidfd = self._supervisor.serve("pytest_capsule.network.forwarder", "serve")
        return self._control

    def _unpublish(self, key: str) -> None:
        from pytest_capsule.network import forwarder

        with self._lock, contextlib.suppress(OSError):
            if self._control is not None:
                forwarder.unpublish(self._control, key)

    def close(self) -> None:
        """End the forwarder."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
