"""The wires of one network: a hub, which is a network namespace that holds a bridge, and a veth pair a container.

The host's own network namespace is never touched, so no root on the host is needed, no name can clash with one of the
host's links, and when the last process and descriptor of the hub go, the kernel takes bridge and ports with them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

from pytest_capsule._linux.constants import CLONE_NEWNET
from pytest_capsule._linux.netlink import RouteSocket, loopback_up
from pytest_capsule._linux.syscalls import setns

if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGE = "capsule0"
"""The bridge's name in every hub."""


def ipv6_available() -> bool:
    """Whether this kernel speaks IPv6 at all (it may be built or booted without)."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).close()
    except OSError:
        return False
    return True


def create_hub(addresses: Sequence[tuple[str, int]], mac: str) -> None:
    """Make the network namespace of this process a hub: ``lo`` up, the bridge up with the gateway's addresses.

    ``addresses`` are pairs of an IPv4 or IPv6 address and its prefix in bits. ``mac`` pins the bridge's hardware
    address: else it would change as ports come and go, and the containers' neighbour tables would be wrong.
    """
    loopback_up()
    with RouteSocket() as route:
        route.create_bridge(BRIDGE, mac=mac)
        _configure(route, BRIDGE, addresses, ())


def attach(
    hub: int,
    own: int,
    port: str,
    *,
    interface: str = "eth0",
    mac: str | None = None,
    addresses: Sequence[tuple[str, int]] = (),
    gateways: Sequence[str] = (),
) -> None:
    """Wire the network namespace ``own``, in which the caller stands, to the hub; both are descriptors of namespaces.

    ``port`` is the name of the pair's end in the hub (at most 15 bytes, one of its own for each container there). The
    caller is a single-threaded process that is privileged in the user namespace which owns both. On an error it stands
    in ``own`` again and nothing is left of the pair.
    """
    setns(hub, CLONE_NEWNET)
    try:
        with RouteSocket() as route:
            plug(route, own, port, interface=interface, mac=mac)
    finally:
        setns(own, CLONE_NEWNET)
    try:
        configure(interface, addresses, gateways)
    except OSError:
        with contextlib.suppress(OSError), RouteSocket() as route:
            route.delete_link(interface)
        raise


def plug(hub: RouteSocket, namespace: int, port: str, *, interface: str = "eth0", mac: str | None = None) -> None:
    """Make the pair: ``port`` on the hub's bridge, up, and ``interface`` in ``namespace``, still down.

    ``hub`` was opened in the hub. A process that kept such a socket can plug containers in with no
    ``setns`` of its own.
    """
    hub.create_veth(port, interface, peer_namespace=namespace, peer_mac=mac, master=BRIDGE, up=True)


def configure(interface: str, addresses: Sequence[tuple[str, int]], gateways: Sequence[str] = ()) -> None:
    """Give ``interface``, in this process' network namespace, its addresses, set it up, and route by ``gateways``."""
    with RouteSocket() as route:
        _configure(route, interface, addresses, gateways)


def detach(hub: int, own: int, port: str) -> None:
    """Take ``port`` out of the hub, and with it the interface at its other end. A port that is gone is no error.

    The caller is as in :func:`attach`. A container that ends needs none of this: its namespace takes the pair with it.
    """
    setns(hub, CLONE_NEWNET)
    try:
        with RouteSocket() as route:
            route.delete_link(port)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
    finally:
        setns(own, CLONE_NEWNET)


def _configure(
    route: RouteSocket, interface: str, addresses: Sequence[tuple[str, int]], gateways: Sequence[str]
) -> None:
    for address, prefix in addresses:
        route.add_address(interface, address, prefix)
    route.set_up(interface)
    for gateway in gateways:
        route.add_default_route(interface, gateway)
