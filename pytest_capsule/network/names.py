"""The files by which a container knows itself and others: ``/etc/hosts``, ``/etc/hostname``, ``/etc/resolv.conf``.

Text in, text out. The lines are those that Docker writes (moby ``libnetwork/etchosts``), in Docker's order.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.errors import UsageError
from pytest_capsule.network.resolver import HOST_ADDRESS, HOST_NAME, NAMESERVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_capsule.network.addresses import Host

HOST_GATEWAY = "host-gateway"
"""The word that stands for the gateway's address in an extra host, as in Docker."""

_IPV4 = "127.0.0.1\tlocalhost\n"
_IPV6 = """\
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_EXAMPLE = 'for example {"db.example": "10.0.0.5"} or ["db.example:10.0.0.5"]'


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One line of ``/etc/hosts``: an address and the names that it has, the first being the canonical one."""

    address: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.address}\t{' '.join(self.names)}"


def entries(host: Host, known_as: tuple[str, ...]) -> list[HostEntry]:
    """The lines of a container with the addresses of ``host``: a client that asks for either kind finds it.

    Raises :class:`UsageError` for what is no host name.
    """
    names = tuple(map(_name, dict.fromkeys(known_as)))
    return [HostEntry(address, names) for address in (host.ipv4, host.ipv6) if address]


def parse_extra_hosts(
    extra_hosts: Mapping[str, str] | Iterable[str], *, gateway: str | None = None
) -> tuple[HostEntry, ...]:
    """Docker's ``extra_hosts``: a mapping of name to address, or texts ``name:address`` (also ``name=address``).

    ``host-gateway`` as an address means ``gateway``. Raises :class:`UsageError`.
    """
    if isinstance(extra_hosts, str):
        raise UsageError(f"extra_hosts is the text {extra_hosts!r}, not a mapping or a list", hint=_EXAMPLE)
    pairs = extra_hosts.items() if isinstance(extra_hosts, Mapping) else map(_split_extra_host, extra_hosts)
    return tuple(HostEntry(_address(name, address, gateway), (_name(name),)) for name, address in pairs)


def host_entry() -> HostEntry:
    """The host by its name, for a container that is on its network."""
    return HostEntry("127.0.0.1", (HOST_NAME,))


def gateway_entry() -> HostEntry:
    """The host by its name, for a container that asks a name server which does not know it."""
    return HostEntry(HOST_ADDRESS, (HOST_NAME,))


def hosts(
    own: Iterable[HostEntry] = (),
    *,
    extra: Iterable[HostEntry] = (),
    peers: Iterable[HostEntry] = (),
    ipv6: bool = True,
) -> str:
    """The text of ``/etc/hosts``.

    ``own`` are the container's addresses with its hostname, ``peers`` the other containers of its networks with name
    and aliases. ``extra`` comes before both: a resolver takes the first line that fits, and the user's word goes first.
    """
    lines = "".join(f"{entry}\n" for entry in (*extra, *own, *peers))
    return _IPV4 + (_IPV6 if ipv6 else "") + lines


def hostname(name: str) -> str:
    """The text of ``/etc/hostname``. Raises :class:`UsageError` for what ``sethostname(2)`` or a resolver refuses."""
    if len(name.encode()) > 64:  # __NEW_UTS_LEN
        raise UsageError(f"the hostname {name!r} is longer than 64 bytes")
    return _name(name) + "\n"


def resolv_conf(host: str | None = None) -> str:
    """The text of ``/etc/resolv.conf``: the host's own for a container on the host's network, else the container's.

    A container's own name server knows the host and nobody else: a lookup of a name that is not in ``/etc/hosts`` never
    waits.
    """
    return f"nameserver {NAMESERVER}\n" if host is None else host


def _split_extra_host(text: object) -> tuple[str, str]:
    if not isinstance(text, str):
        raise UsageError(f"the extra host {text!r} is no text", hint=_EXAMPLE)
    # "=" is Docker's newer form; ":" splits at the first, since an IPv6 address has more of them.
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name or not address:
        raise UsageError(f"the extra host {text!r} is not of the form name:address", hint=_EXAMPLE)
    return name, address


def _address(name: object, address: object, gateway: str | None) -> str:
    if address == HOST_GATEWAY:
        if gateway is None:
            raise UsageError(f"the extra host {name!r} is {HOST_GATEWAY}, but the container's network has no gateway")
        return gateway
    if not isinstance(address, str):
        raise UsageError(f"the address {address!r} of the extra host {name!r} is no text", hint=_EXAMPLE)
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in bare else socket.AF_INET, bare)
    except (OSError, ValueError):
        raise UsageError(f"the extra host {name!r} has {address!r}, which is no IP address", hint=_EXAMPLE) from None
    return bare


def _name(name: object) -> str:
    """The name itself, if it can stand in a hosts file: a blank, a ``#`` or a line end would change other lines."""
    if not isinstance(name, str) or not name or not name.isprintable() or any(char in " #" for char in name):
        raise UsageError(f"{name!r} is no host name", hint="letters, digits, dots and hyphens")
    return name
