"""Changes to the wires of a network while containers hang on them.

Called by name in a worker of its own (``runtime.worker``), which goes from namespace to namespace and has no home: the
last arguments are descriptors, of the hub and of a container's own namespace.
"""

from __future__ import annotations

from typing import Any

from pytest_capsule._linux.constants import CLONE_NEWNET
from pytest_capsule._linux.netlink import RouteSocket
from pytest_capsule._linux.syscalls import setns
from pytest_capsule.network.bridge import BRIDGE, attach


def set_port(port: str, up: bool, hub: int) -> None:
    """Plug a container's cable in, or pull it."""
    with _route_of(hub) as route:
        (route.set_up if up else route.set_down)(port)


def plug_in(arguments: dict[str, Any], hub: int, own: int) -> str:
    """Wire a running container to one more hub; returns the name of its new interface.

    The first is where its default route goes, so this one gets none if there is another.
    """
    with _route_of(own) as route:
        taken = {link.name for link in route.links()}
    interface = next(name for name in (f"eth{number}" for number in range(len(taken) + 1)) if name not in taken)
    if interface != "eth0":
        arguments["gateways"] = ()
    attach(hub, own, interface=interface, **arguments)
    return interface


def regroup(groups: list[list[str]], hub: int) -> None:
    """Put the ports of each group on a bridge of their own, those of the first on the one with the gateway."""
    with _route_of(hub) as route:
        known = {link.name for link in route.links()}
        for number, ports in enumerate(groups):
            bridge = BRIDGE if number == 0 else f"{BRIDGE}-{number}"
            if bridge not in known:
                route.create_bridge(bridge)
                route.set_up(bridge)
            for port in ports:
                route.set_master(port, bridge)


def shape(port: str, interface: str, values: list[float], hub: int, own: int) -> None:
    """Shape what goes to a container (at its port) and what comes from it (at its own interface)."""
    latency, jitter, loss, bandwidth = values
    for namespace, link in ((hub, port), (own, interface)):
        with _route_of(namespace) as route:
            route.reset_queue(link)
            if latency or jitter or loss:
                route.set_netem(link, latency=latency, jitter=jitter, loss=loss, rate=int(bandwidth / 8))
            elif bandwidth:
                route.set_token_bucket(link, rate=int(bandwidth / 8))


def _route_of(namespace: int) -> RouteSocket:
    setns(namespace, CLONE_NEWNET)
    return RouteSocket()
