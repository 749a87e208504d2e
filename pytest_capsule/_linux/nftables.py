"""nftables over netlink: the one rule that leads a network namespace's connections to an address to a local port.

Sources: ``include/uapi/linux/netfilter/nf_tables.h``, ``nfnetlink.h``; numbers in attributes are big-endian.
"""

from __future__ import annotations

import os
import socket
import struct

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _NEWCHAIN, _NEWRULE = (_SUBSYSTEM << 8 | number for number in (0, 3, 6))
_ERROR = 2
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NESTED = 0x8000
_TABLE = _CHAIN = "capsule"
_LOCAL_OUT, _DSTNAT = 3, -100  # NF_INET_LOCAL_OUT, NF_IP_PRI_NAT_DST
_REGISTER = 1
_NETWORK_HEADER, _DESTINATION = 1, 16  # of an IPv4 packet
_L4PROTO = 16  # NFT_META_L4PROTO


def redirect(address: str, port: int) -> None:
    """Lead every TCP connection that begins here and is for the IPv4 ``address``, at any port, to the local ``port``.

    What was asked for is then the accepted socket's ``SO_ORIGINAL_DST``. ``OSError`` where the kernel has no nftables.
    """
    at_port = _attribute(_NESTED | 2, _attribute(1, port.to_bytes(2, "big")))
    rule = b"".join(
        _attribute(_NESTED | 1, expression)
        for expression in (
            _expression("meta", _number(1, _REGISTER) + _number(2, _L4PROTO)),
            _equal(bytes([socket.IPPROTO_TCP])),
            _expression(
                "payload",
                _number(1, _REGISTER) + _number(2, _NETWORK_HEADER) + _number(3, _DESTINATION) + _number(4, 4),
            ),
            _equal(socket.inet_aton(address)),
            _expression("immediate", _number(1, _REGISTER) + at_port),
            _expression("redir", _number(1, _REGISTER)),
        )
    )
    hook = _number(1, _LOCAL_OUT) + _number(2, _DSTNAT)
    chain = _text(1, _TABLE) + _text(3, _CHAIN) + _attribute(_NESTED | 4, hook) + _text(7, "nat")
    _carry_out(
        (_NEWTABLE, _CREATE, _text(1, _TABLE)),
        (_NEWCHAIN, _CREATE, chain),
        (_NEWRULE, _CREATE | _APPEND, _text(1, _TABLE) + _text(2, _CHAIN) + _attribute(_NESTED | 4, rule)),
    )


def _carry_out(*changes: tuple[int, int, bytes]) -> None:
    """Send the changes as one transaction and read an acknowledgement for each."""
    messages = [_message(_BATCH_BEGIN, 0, socket.AF_UNSPEC, b"", resource=_SUBSYSTEM)]
    messages += [_message(kind, flags | _ACK, socket.AF_INET, body) for kind, flags, body in changes]
    messages.append(_message(_BATCH_END, 0, socket.AF_UNSPEC, b"", resource=_SUBSYSTEM))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        sock.send(b"".join(messages))
        for _ in changes:
            answer = sock.recv(1 << 16)
            kind = _HEADER.unpack_from(answer)[1]
            code = -struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _ERROR else 0
            if code:
                raise OSError(code, f"nftables: {os.strerror(code)}", "nf_tables")


def _message(kind: int, flags: int, family: int, body: bytes, *, resource: int = 0) -> bytes:
    payload = _GENERIC.pack(family, 0, resource) + body
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags | _REQUEST, 0, 0) + payload


def _expression(name: str, data: bytes) -> bytes:
    return _text(1, name) + _attribute(_NESTED | 2, data)


def _equal(value: bytes) -> bytes:
    data = _attribute(_NESTED | 3, _attribute(1, value))
    return _expression("cmp", _number(1, _REGISTER) + _number(2, 0) + data)


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!i", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")
