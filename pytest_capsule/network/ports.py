"""Published ports, written as Docker writes them: ``[[host-address:][host-port]:]container-port[/protocol]``."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.errors import ContainerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_HOST = "127.0.0.1"
"""Docker publishes on every address of the machine. A test's service is for the test, not for the network around it."""

BACKLOG = 1024
"""Connections that wait in the kernel; it cuts this down to net.core.somaxconn."""

_EXAMPLE = (
    'for example 8000, "8080:8000", "127.0.0.1:8080:8000/tcp", "[::1]:8080:80", "8000-8010:9000-9010" or "53/udp"'
)
_FORM = re.compile(
    r"""(?:(?:(?P<host>\[[^\]]*\]|[^:\[\]]*):)?(?P<host_port>[^:\[\]]*):)?(?P<port>[^:/\[\]]+)(?:/(?P<protocol>.*))?""",
    re.VERBOSE,
)
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One port of a container, published at ``host_port`` (0: any free one) of the address ``host``.

    ``protocol`` is ``tcp`` or ``udp``; ``host`` an IPv4 or IPv6 address, with no brackets. With ``last`` it is the
    first free one from ``host_port`` to that.
    """

    port: int
    host_port: int = 0
    host: str = DEFAULT_HOST
    protocol: str = "tcp"
    last: int | None = None

    def __str__(self) -> str:
        range_end = "" if self.last is None else f"-{self.last}"
        return f"{in_url(self.host)}:{self.host_port}{range_end}:{self.port}/{self.protocol}"


def in_url(host: str) -> str:
    """An address as it stands before a port: an IPv6 one in brackets."""
    return f"[{host}]" if ":" in host else host


def reached_at(host: str) -> str:
    """The address by which this machine reaches what listens at ``host``: for all of them, the one of loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def parse_port(text: int | str) -> tuple[PortMapping, ...]:
    """The mappings that one form means: one, or as many as its range has ports. Raises :class:`UsageError`.

    Not taken: SCTP.
    """
    whole = _text(text)
    match = _FORM.fullmatch(whole)
    if match is None:
        raise UsageError(
            f"the port {whole!r} is not of the form [[address:][host-port]:]port[/protocol]", hint=_EXAMPLE
        )
    protocol = _protocol(match["protocol"], whole)
    host = _host(match["host"], whole)
    ports = _ports(match["port"], whole, lowest=1)
    host_ports = _ports(match["host_port"], whole, lowest=0) if match["host_port"] else (0,) * len(ports)
    if len(ports) == 1 and len(host_ports) > 1:
        return (PortMapping(ports[0], host_ports[0], host, protocol, last=host_ports[-1]),)
    if len(host_ports) != len(ports):
        raise UsageError(
            f"the port {whole!r} has {len(host_ports)} host ports for {len(ports)} container ports", hint=_EXAMPLE
        )
    return tuple(PortMapping(port, at, host, protocol) for port, at in zip(ports, host_ports, strict=True))


def parse_inner_port(text: int | str) -> tuple[int, str]:
    """A port inside and its protocol: ``8000``, ``"8000/tcp"``, ``"53/udp"``. Raises :class:`UsageError`."""
    try:
        whole = _text(text)
        number, slash, protocol = whole.partition("/")
        ports = _ports(number, whole, lowest=1)
        if len(ports) > 1:
            raise UsageError(f"the port {whole!r} is a range, not one port")
        return ports[0], _protocol(protocol if slash else None, whole)
    except UsageError as error:
        raise UsageError(error.message, hint='for example 8000 or "53/udp"') from None


def parse_ports(ports: Iterable[int | str]) -> tuple[PortMapping, ...]:
    """The mappings of a ``ports=`` list, in order, equal ones once.

    Raises :class:`UsageError` for a wrong form, and for two container ports at one host port.
    """
    if isinstance(ports, (str, int)):
        raise UsageError(f"ports is {ports!r}, not a list", hint=f"ports=[{ports!r}]")
    found: dict[PortMapping, None] = {}
    taken: dict[tuple[str, int, str], PortMapping] = {}
    for mapping in (mapping for text in ports for mapping in parse_port(text)):
        found[mapping] = None
        place = (mapping.host, mapping.host_port, mapping.protocol)
        if mapping.host_port and mapping.last is None and taken.setdefault(place, mapping) != mapping:
            raise UsageError(f"two ports are published at one place: {taken[place]} and {mapping}")
    return tuple(found)


def listen(mapping: PortMapping) -> socket.socket:
    """A socket at the mapping's host address and port: listening (TCP) or bound (UDP).

    The port that the kernel chose for 0 is in ``getsockname()``. Raises :class:`ContainerError` when it cannot be had.
    """
    for host_port in range(mapping.host_port, mapping.last or 0):
        with contextlib.suppress(ContainerError):
            return _listen(mapping, host_port)
    return _listen(mapping, mapping.last or mapping.host_port)


def _listen(mapping: PortMapping, host_port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in mapping.host else socket.AF_INET
    kind = socket.SOCK_STREAM if mapping.protocol == "tcp" else socket.SOCK_DGRAM
    try:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                # As Docker does: "[::]:80" is IPv6 only, so that "0.0.0.0:80" can stand beside it.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                # A port whose last connection is still in TIME_WAIT is free. (For UDP the option would let two
                # programs take one port.)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((mapping.host, host_port))
            if kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        why = os.strerror(error.errno or 0)
        hint = "leave the host port out, and any free one is taken" if error.errno == errno.EADDRINUSE else None
        raise ContainerError(f"the port {mapping} cannot be published: {why}", hint=hint) from error
    return sock


def _text(port: int | str) -> str:
    if isinstance(port, bool) or not isinstance(port, (int, str)):
        raise UsageError(f"the port {port!r} is neither a number nor a text", hint=_EXAMPLE)
    return str(port)


def _protocol(text: str | None, whole: str) -> str:
    protocol = "tcp" if text is None else text.lower()
    if protocol not in ("tcp", "udp"):
        raise UsageError(f"the port {whole!r} has the protocol {text!r}, not tcp or udp", hint=_EXAMPLE)
    return protocol


def _host(text: str | None, whole: str) -> str:
    if not text:
        return DEFAULT_HOST
    bracketed = text.startswith("[")
    host = text[1:-1] if bracketed else text
    try:
        socket.inet_pton(socket.AF_INET6 if bracketed else socket.AF_INET, host)
    except (OSError, ValueError):
        raise UsageError(f"the port {whole!r} has {text!r}, which is no IP address", hint=_EXAMPLE) from None
    return host


def _ports(text: str, whole: str, *, lowest: int) -> tuple[int, ...]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(f"the port {whole!r} has {text!r}, which is no port number", hint=_EXAMPLE)
    first = int(match[1])
    last = int(match[2] or first)
    if first > last:
        raise UsageError(f"the port {whole!r} has the range {text!r}, which goes backwards", hint=_EXAMPLE)
    if first < lowest or last > 65535:
        raise UsageError(f"the port {whole!r} has {text!r}: ports go from {lowest} to 65535", hint=_EXAMPLE)
    return tuple(range(first, last + 1))
