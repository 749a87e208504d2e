"""A container's name server: it knows the host by name, and says of every other name at once that there is none.

The names of other containers are in ``/etc/hosts``. Texts of RFC 1035: a query in, an answer out.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

NAMESERVER = "127.0.0.11"
"""Where it listens in the container's own network namespace: the address of Docker's embedded one."""

HOST_NAME = "host.capsule.internal"
HOST_ADDRESS = "127.0.0.12"
"""The host as a container sees it: what connects there reaches the host's loopback (``network.gateway``)."""

_HEADER = struct.Struct("!HHHHHH")  # id, flags, questions, answers, authorities, additional
_RESPONSE, _RECURSION_ASKED, _RECURSION = 0x8000, 0x0100, 0x0080
_SERVFAIL, _NXDOMAIN = 2, 3
_A, _IN = 1, 1
_POINTER = 0xC000 | _HEADER.size  # the name in the question
_DATAGRAM = 512


class Question(NamedTuple):
    """What is asked: a name in lower case, with no dot at its end, and whether for an IPv4 address."""

    name: str
    ipv4: bool
    end: int


def listen() -> socket.socket | None:
    """The name server's socket; ``None`` where another one of this network has it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.bind((NAMESERVER, 53))
    except OSError:
        sock.close()
        return None
    return sock


def receive(sock: socket.socket) -> tuple[bytes, Any]:
    """The next query and who asks."""
    return sock.recvfrom(_DATAGRAM)


def question(query: bytes) -> Question | None:
    """The one question of a query; ``None`` for what is none."""
    if len(query) < _HEADER.size or _HEADER.unpack_from(query)[2] != 1:
        return None
    labels, position = [], _HEADER.size
    while position < len(query) and (length := query[position]):
        labels.append(query[position + 1 : position + 1 + length].decode("ascii", "replace"))
        position += 1 + length
    if position + 5 > len(query):
        return None
    kind, family = struct.unpack_from("!HH", query, position + 1)
    return Question(".".join(labels).lower(), kind == _A and family == _IN, position + 5)


def answer(query: bytes, asked: Question, address: str | None, *, failed: bool = False) -> bytes:
    """The answer to ``query``: ``address``, or that the name has none; ``failed`` says that nobody can tell now."""
    code = _SERVFAIL if failed else 0 if asked.name == HOST_NAME else _NXDOMAIN
    identity, flags, *_ = _HEADER.unpack_from(query)
    flags = _RESPONSE | flags & _RECURSION_ASKED | _RECURSION | code
    found = b"" if address is None else struct.pack("!HHHIH", _POINTER, _A, _IN, 0, 4) + socket.inet_aton(address)
    return _HEADER.pack(identity, flags, 1, bool(found), 0, 0) + query[_HEADER.size : asked.end] + found
