"""rtnetlink: links, addresses and routes of one network namespace, over a plain ``AF_NETLINK`` socket.

Sources: rtnetlink(7), netlink(7), ``include/uapi/linux/rtnetlink.h``, ``if_link.h``, ``if_addr.h``, ``veth.h``.

Everything that is used is imported at the top: a container's init calls this after ``pivot_root``, where no import can
work any more. Every failure is an :class:`OSError` whose ``filename`` names the link (or the address). The values are
named tuples and no dataclasses: ``dataclasses`` would add 6 ms to the supervisor's start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type, flags
_QUEUE = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, info
_ERROR = struct.Struct("=i")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_GETADDR, _RTM_NEWROUTE = 20, 22, 24

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 10, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_RTA_OIF, _RTA_GATEWAY = 4, 5
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 254, 3, 1
_IFF_UP = 0x1

_RTM_NEWQDISC, _RTM_DELQDISC = 36, 37
_REPLACE = 0x100
_TC_H_ROOT = 0xFFFFFFFF
_TCA_KIND, _TCA_OPTIONS = 1, 2
_NETEM_RATE, _NETEM_LATENCY64, _NETEM_JITTER64 = 6, 10, 11
_NETEM_LIMIT = 1000  # packets on their way: tc's own
_TBF_PARMS, _TBF_BURST = 1, 6
_LINKLAYER_ETHERNET = 1
_SHORTEST_BURST = 1 << 16  # one packet of a virtual link may be as long: GSO

_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFREQ_FLAGS = struct.Struct("=16sh14x")

_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_NLMSGERR_ATTR_MSG = 1
_CAPPED, _ACK_TLVS = 0x100, 0x200


class Link(NamedTuple):
    """One network interface. ``mac`` is ``aa:bb:cc:dd:ee:ff``; ``master`` the number of its bridge, 0 for none.

    ``number`` is the interface index.
    """

    number: int
    name: str
    up: bool
    mtu: int
    mac: str
    master: int
    kind: str


class LinkAddress(NamedTuple):
    """One address of the link ``number``: its text, prefix length in bits and ``IFA_F_*`` flags."""

    number: int
    address: str
    prefix: int
    flags: int


class RouteSocket:
    """A socket to rtnetlink. It speaks for the network namespace in which it was made, wherever its user goes later.

    Not for several threads at once. A context manager.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0
        try:
            # The kernel then says in words what it did not like (4.12 and newer), not only EINVAL.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the links stay."""
        self._socket.close()

    def create_bridge(self, name: str, *, mac: str | None = None, mtu: int | None = None) -> None:
        """Create the bridge ``name``, down. Without ``mac`` its address changes with its ports."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _link_attributes(name, mac, mtu) + _link_info("bridge")
        self._change(_RTM_NEWLINK, _CREATE | _EXCL, body, "create bridge", name)

    def create_veth(
        self,
        name: str,
        peer: str,
        *,
        peer_namespace: int | None = None,
        peer_mac: str | None = None,
        mtu: int | None = None,
        master: str | None = None,
        up: bool = False,
    ) -> None:
        """Create the pair ``name`` (here) and ``peer`` (in the namespace open at ``peer_namespace``, else here).

        ``master`` and ``up`` are of ``name``: the kernel sets them in the same request, which saves two.
        """
        flags = _IFF_UP if up else 0
        there = _LINK.pack(0, 0, 0, 0, 0) + _link_attributes(peer, peer_mac, mtu)
        if peer_namespace is not None:
            there += _number(_IFLA_NET_NS_FD, peer_namespace)
        body = _LINK.pack(0, 0, 0, flags, flags) + _link_attributes(name, None, mtu)
        if master is not None:
            body += _number(_IFLA_MASTER, self.index(master))
        body += _link_info("veth", _attribute(_VETH_INFO_PEER | _NLA_F_NESTED, there))
        self._change(_RTM_NEWLINK, _CREATE | _EXCL, body, "create veth pair", f"{name}, {peer}")

    def set_master(self, name: str, bridge: str | None) -> None:
        """Make ``name`` a port of ``bridge``; ``None`` takes it off its bridge."""
        index = 0 if bridge is None else self.index(bridge)
        self._set(name, _number(_IFLA_MASTER, index), "set master of")

    def set_up(self, name: str) -> None:
        """Set the link up."""
        self._set(name, b"", "set up", flags=_IFF_UP, change=_IFF_UP)

    def set_down(self, name: str) -> None:
        """Set the link down; its routes go."""
        self._set(name, b"", "set down", change=_IFF_UP)

    def rename(self, name: str, new: str) -> None:
        """Rename a link."""
        self._set(name, _text(_IFLA_IFNAME, new), f"rename to {new}:")

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set the largest packet of the link, in bytes."""
        self._set(name, _number(_IFLA_MTU, mtu), f"set mtu {mtu} of")

    def set_mac(self, name: str, mac: str) -> None:
        """Set the hardware address, ``aa:bb:cc:dd:ee:ff``."""
        self._set(name, _attribute(_IFLA_ADDRESS, _mac_bytes(mac)), f"set mac {mac} of")

    def add_address(self, name: str, address: str, prefix: int) -> None:
        """Give the link an IPv4 or IPv6 address with a prefix of ``prefix`` bits.

        IPv6 without duplicate address detection, which would keep the address unusable for a second (RFC 4862, 5.4).
        """
        family, packed = _packed_address(address)
        flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        body = _ADDRESS.pack(family, prefix, flags, 0, self.index(name))
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._change(_RTM_NEWADDR, _CREATE | _EXCL, body, f"add address {address}/{prefix} to", name)

    def add_default_route(self, name: str, gateway: str) -> None:
        """Route everything that has no other route over ``gateway``, which ``name`` reaches."""
        family, packed = _packed_address(gateway)
        body = _ROUTE.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_UNICAST, 0)
        body += _attribute(_RTA_GATEWAY, packed) + _number(_RTA_OIF, self.index(name))
        self._change(_RTM_NEWROUTE, _CREATE | _EXCL, body, f"add default route by {gateway} to", name)

    def delete_link(self, name: str) -> None:
        """Delete a link; of a pair, both ends go."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        self._change(_RTM_DELLINK, 0, body, "delete link", name)

    def reset_queue(self, name: str) -> None:
        """Give the link the queue back that it had from the start."""
        try:
            self._queue(_RTM_DELQDISC, 0, name, b"", "reset queue of")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # it has no other
                raise

    def set_netem(self, name: str, *, latency: float, jitter: float, loss: float, rate: int) -> None:
        """Delay (seconds) and lose (a part) what the link sends, at ``rate`` bytes a second (0: any).

        ``OSError`` (ENOENT) where the kernel has no netem.
        """
        nanoseconds = [round(seconds * 1e9) for seconds in (latency, jitter)]
        # tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; the times are in the attributes, in full.
        options = struct.pack("=6I", 0, _NETEM_LIMIT, round(loss * 0xFFFFFFFF), 0, 0, 0)
        for kind, value in zip((_NETEM_LATENCY64, _NETEM_JITTER64), nanoseconds, strict=True):
            options += _attribute(kind, struct.pack("=q", value))
        if rate:
            options += _attribute(_NETEM_RATE, struct.pack("=IiIi", min(rate, 0xFFFFFFFF), 0, 0, 0))
        self._set_queue(name, "netem", options)

    def set_token_bucket(self, name: str, *, rate: int) -> None:
        """Let the link send ``rate`` bytes a second."""
        burst = max(rate // 50, _SHORTEST_BURST)
        speed = struct.pack("=BBHhHI", 0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))  # tc_ratespec
        # tc_tbf_qopt: rate, peak rate, limit, buffer, mtu
        parameters = speed + bytes(len(speed)) + struct.pack("=III", burst * 4, 0, 0)
        options = _attribute(_TBF_PARMS, parameters) + _number(_TBF_BURST, burst)
        self._set_queue(name, "tbf", options)

    def _set_queue(self, name: str, kind: str, options: bytes) -> None:
        attributes = _text(_TCA_KIND, kind) + _attribute(_TCA_OPTIONS, options)
        self._queue(_RTM_NEWQDISC, _CREATE | _REPLACE, name, attributes, f"set {kind} of")

    def _queue(self, kind: int, flags: int, name: str, attributes: bytes, operation: str) -> None:
        body = _QUEUE.pack(0, self.index(name), 0, _TC_H_ROOT, 0) + attributes
        self._change(kind, flags, body, operation, name)

    def index(self, name: str) -> int:
        """The interface index of a link."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        for kind, answer in self._talk(_RTM_GETLINK, 0, body, "find link", name):
            if kind == _RTM_NEWLINK:
                return int(_LINK.unpack_from(answer)[2])
        raise OSError(19, "find link: " + os.strerror(19), name)  # ENODEV; the kernel always answers or refuses

    def links(self) -> list[Link]:
        """Every link of the namespace."""
        body = _LINK.pack(0, 0, 0, 0, 0)
        answers = self._talk(_RTM_GETLINK, _DUMP, body, "list links", "")
        return [_link(answer) for kind, answer in answers if kind == _RTM_NEWLINK]

    def addresses(self) -> list[LinkAddress]:
        """Every address of every link of the namespace."""
        body = _ADDRESS.pack(0, 0, 0, 0, 0)
        answers = self._talk(_RTM_GETADDR, _DUMP, body, "list addresses", "")
        return [_link_address(answer) for kind, answer in answers if kind == _RTM_NEWADDR]

    def _set(self, name: str, attributes: bytes, operation: str, flags: int = 0, change: int = 0) -> None:
        body = _LINK.pack(0, 0, self.index(name), flags, change) + attributes
        self._change(_RTM_SETLINK, 0, body, operation, name)

    def _change(self, kind: int, flags: int, body: bytes, operation: str, subject: str) -> None:
        self._talk(kind, flags, body, operation, subject)

    def _talk(self, kind: int, flags: int, body: bytes, operation: str, subject: str) -> list[tuple[int, bytes]]:
        """Send one request; the messages until its acknowledgement. The kernel answers before ``send`` returns."""
        self._sequence += 1
        # A dump ends with NLMSG_DONE and wants no acknowledgement beside it.
        flags |= _REQUEST | (0 if flags & _DUMP == _DUMP else _ACK)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        answers: list[tuple[int, bytes]] = []
        while True:
            for answer, answer_flags, sequence, payload in _messages(self._socket.recv(1 << 16)):
                if sequence != self._sequence:
                    continue
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_refusal(payload, answer_flags, operation, subject)
                    return answers
                answers.append((answer, payload))


def loopback_up() -> None:
    """Set ``lo`` of this process' network namespace up: two ioctls (netdevice(7)), cheaper than a netlink socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(b"lo", 0))
            flags = _IFREQ_FLAGS.unpack(answer)[1]
            fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(b"lo", flags | _IFF_UP))
        except OSError as error:
            raise OSError(error.errno, f"set up: {error.strerror}", "lo") from None


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and payload of every netlink message in a datagram."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, start)
        yield kind, flags, sequence, data[start + _HEADER.size : start + length]
        start += (length + 3) & ~3


def _raise_refusal(payload: bytes, flags: int, operation: str, subject: str) -> None:
    code = -_ERROR.unpack_from(payload)[0] if len(payload) >= _ERROR.size else 0
    if code == 0:
        return
    words = _refusal_words(payload, flags)
    raise OSError(code, f"{operation}: {os.strerror(code)}{words}", subject or None)


def _refusal_words(payload: bytes, flags: int) -> str:
    """What the kernel says beside the errno (netlink extended acknowledgement), as `` (...)``, else nothing."""
    if not flags & _ACK_TLVS:
        return ""
    # nlmsgerr: the errno, the request's header, then (unless capped) the whole request, then the attributes.
    start = _ERROR.size + _HEADER.size
    if not flags & _CAPPED:
        start = _ERROR.size + ((_HEADER.unpack_from(payload, _ERROR.size)[0] + 3) & ~3)
    text = dict(_attributes(payload, start)).get(_NLMSGERR_ATTR_MSG, b"")
    return f" ({text.rstrip(bytes(1)).decode(errors='replace')})" if text else ""


def _attributes(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    while start + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _link_attributes(name: str, mac: str | None, mtu: int | None) -> bytes:
    data = _text(_IFLA_IFNAME, name)
    if mac is not None:
        data += _attribute(_IFLA_ADDRESS, _mac_bytes(mac))
    if mtu is not None:
        data += _number(_IFLA_MTU, mtu)
    return data


def _link_info(kind: str, data: bytes = b"") -> bytes:
    info = _attribute(_IFLA_INFO_KIND, kind.encode())
    if data:
        info += _attribute(_IFLA_INFO_DATA | _NLA_F_NESTED, data)
    return _attribute(_IFLA_LINKINFO | _NLA_F_NESTED, info)


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _packed_address(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, address)
    except OSError:
        raise OSError(22, "read address: " + os.strerror(22), address) from None  # inet_pton gives no errno: EINVAL


def _link(answer: bytes) -> Link:
    _family, _type, index, flags, _change = _LINK.unpack_from(answer)
    found = dict(_attributes(answer, _LINK.size))
    info = dict(_attributes(found.get(_IFLA_LINKINFO, b""), 0))
    return Link(
        number=index,
        name=found[_IFLA_IFNAME].rstrip(b"\0").decode(),
        up=bool(flags & _IFF_UP),
        mtu=int.from_bytes(found.get(_IFLA_MTU, b""), sys.byteorder),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        master=int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder),
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
    )


def _link_address(answer: bytes) -> LinkAddress:
    family, prefix, flags, _scope, index = _ADDRESS.unpack_from(answer)
    found = dict(_attributes(answer, _ADDRESS.size))
    # IPv4 on a point-to-point link puts the peer in IFA_ADDRESS and its own in IFA_LOCAL; IPv6 has only the former.
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return LinkAddress(index, socket.inet_ntop(family, packed), prefix, flags)
