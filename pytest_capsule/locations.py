"""Where a container is on the network: what ``network=`` means, and the files that say so inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_capsule.errors import UsageError
from pytest_capsule.network import names, outbound
from pytest_capsule.network.addresses import Host
from pytest_capsule.network.resolver import HOST_ADDRESS
from pytest_capsule.networks import Membership, Network
from pytest_capsule.runtime.container import Container

_SHORTEST_ID = 12


@dataclass(frozen=True, slots=True)
class Location:
    """``on_host``, on the network of a ``membership``, in that of its ``neighbour``, or by itself.

    ``outbound`` is the interface of a way out, where it has one; ``withheld`` are capabilities that are not for there.
    """

    on_host: bool = False
    isolated: bool = False
    outbound: str = ""
    membership: Membership | None = None
    neighbour: Container | None = None
    withheld: frozenset[str] = frozenset()

    def files(
        self, name: str, hostname: str, host: Host | None, extra_hosts: Mapping[str, str] | Iterable[str]
    ) -> dict[str, str]:
        """The texts of ``/etc/hosts`` and its like for a container with the addresses of ``host``, if it has any."""
        if self.neighbour is not None and not self.on_host:
            hosts = self.neighbour.read_text("/etc/hosts")
            extra = "".join(f"{entry}\n" for entry in names.parse_extra_hosts(extra_hosts, gateway=HOST_ADDRESS))
            return {
                "/etc/hosts": hosts + extra,
                "/etc/hostname": names.hostname(hostname),
                "/etc/resolv.conf": self.neighbour.read_text("/etc/resolv.conf"),
            }
        own = [names.HostEntry("127.0.0.1", (hostname,))]
        if self.on_host:
            own = [names.host_entry()]
        elif host is not None:
            own = names.entries(host, (hostname, name, *self._aliases()))
        elif self.outbound:
            own = [names.HostEntry(outbound.ADDRESS, (hostname,))]
        if self.outbound:
            own.append(names.gateway_entry())
        gateway = "127.0.0.1" if self.on_host else HOST_ADDRESS
        return {
            "/etc/hosts": names.hosts(
                own,
                extra=names.parse_extra_hosts(extra_hosts, gateway=gateway),
                peers=() if self.membership is None else self.membership.network.entries(but=name),
            ),
            "/etc/hostname": names.hostname(hostname),
            "/etc/resolv.conf": self._resolv_conf(),
        }

    def _aliases(self) -> tuple[str, ...]:
        return () if self.membership is None else self.membership.aliases

    def _resolv_conf(self) -> str:
        if self.outbound:
            return f"nameserver {outbound.NAMESERVER}\n"
        return names.resolv_conf(host_resolv_conf() if self.on_host else None)


def location_of(network: Any, running: Iterable[Container]) -> Location:
    """What ``network=`` means, given the containers that are there; of several with one name, the last is meant."""
    if network is None:
        return Location()
    if network == "none":
        return Location(isolated=True)
    if network == "host":
        return Location(on_host=True)
    if network == "bridge":
        return Location(outbound="eth0")
    if isinstance(network, (Network, Membership)):
        membership = network if isinstance(network, Membership) else Membership(network)
        return Location(membership=membership, outbound="eth1" if membership.network.outbound else "")
    if isinstance(network, str) and network.startswith("container:"):
        network = _named(network, running)
    if isinstance(network, Container):
        return Location(on_host=network.spec.host_network, isolated=network.spec.isolated, neighbour=network)
    raise UsageError(
        f"network={network!r}: there is no such network",
        hint='it is "none", "host", "bridge", "container:NAME", a Container, or what Engine.network() gave',
    )


def _named(network: str, running: Iterable[Container]) -> Container:
    name = network.removeprefix("container:")
    found = [one for one in running if name == one.name or (len(name) >= _SHORTEST_ID and one.id.startswith(name))]
    if not found:
        raise UsageError(f"network={network!r}: no such container runs", hint="start it first, with that name=")
    return found[-1]


def host_resolv_conf() -> str:
    """The host's own ``/etc/resolv.conf``, for containers on its network; empty where there is none."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
