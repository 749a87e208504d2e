"""Addresses of the containers of one network.

A network is a namespace of its own, so its addresses can clash with nothing on the host; they only have to differ from
those of the other networks that one container may be in.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass

from pytest_capsule.errors import UsageError

IPV4_PREFIX = 22
"""1,022 hosts: as many as a bridge has ports (BR_MAX_PORTS, net/bridge/br_private.h: 1024)."""

IPV6_PREFIX = 64

_HOST_BITS = 32 - IPV4_PREFIX
_FIRST, _LAST = 2, (1 << _HOST_BITS) - 2  # 1 is the gateway, the last is the broadcast address
_NETWORKS = 1 << (IPV4_PREFIX - 8)


@dataclass(frozen=True, slots=True)
class Host:
    """What one interface gets: IPv4 and IPv6 address (``ipv6`` empty without IPv6) and hardware address."""

    number: int
    ipv4: str
    ipv6: str
    mac: str

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The pairs of address and prefix that :func:`pytest_capsule.network.bridge.attach` takes."""
        pairs = ((self.ipv4, IPV4_PREFIX), (self.ipv6, IPV6_PREFIX))
        return tuple(pair for pair in pairs if pair[0])


@dataclass(frozen=True, slots=True)
class Subnet:
    """The ``number``-th network's addresses: ``10.x.y.0/22`` and the unique local ``fd00:0:0:number::/64`` (RFC 4193).

    ``number`` is 0 to 16383; ``ipv6`` says whether the kernel has IPv6. Raises :class:`UsageError`.
    """

    number: int
    ipv6: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.number < _NETWORKS:
            raise UsageError(f"network number {self.number} is not from 0 to {_NETWORKS - 1}")

    def __str__(self) -> str:
        return f"{self.host(0).ipv4}/{IPV4_PREFIX}"

    @property
    def gateway(self) -> Host:
        """The bridge's own addresses."""
        return self.host(1)

    def host(self, number: int) -> Host:
        """The addresses of host ``number``: always the same for the same number.

        The hardware address is ``02:42`` and the IPv4 address, as Docker's: locally administered, and a container that
        gets an address anew has the one that its neighbours may still remember.
        """
        if not 0 <= number <= _LAST:
            raise UsageError(f"host number {number} is not from 0 to {_LAST}")
        packed = (10 << 24 | self.number << _HOST_BITS | number).to_bytes(4, "big")
        return Host(
            number=number,
            ipv4=socket.inet_ntoa(packed),
            ipv6=self._ipv6(number) if self.ipv6 else "",
            mac=f"02:42:{packed.hex(':')}",
        )

    def _ipv6(self, number: int) -> str:
        packed = b"\xfd" + bytes(5) + self.number.to_bytes(2, "big") + number.to_bytes(8, "big")
        return socket.inet_ntop(socket.AF_INET6, packed)  # in the one spelling that everybody compares with


class AddressPool:
    """Hands out the hosts of a subnet, each to one container at a time. Not for several threads at once.

    A returned one is used again as late as can be, so that a test that still talks to a closed container's address does
    not meet the next one there.
    """

    def __init__(self, subnet: Subnet) -> None:
        self.subnet = subnet
        self._next = _FIRST
        self._returned: deque[int] = deque()

    def take(self) -> Host:
        """A free host; :class:`UsageError` when all are taken."""
        if self._next <= _LAST:
            self._next += 1
            return self.subnet.host(self._next - 1)
        if self._returned:
            return self.subnet.host(self._returned.popleft())
        raise UsageError(
            f"the network {self.subnet} is full: {_LAST - _FIRST + 1} containers",
            hint="close containers that are no longer needed, or use a second network",
        )

    def give_back(self, host: Host) -> None:
        """Return what :meth:`take` gave."""
        if host.number in self._returned or not _FIRST <= host.number < self._next:
            raise UsageError(f"the host {host.ipv4} of {self.subnet} is not taken")
        self._returned.append(host.number)
