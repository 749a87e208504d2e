"""Links, addresses and routes of a namespace, by rtnetlink."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys

import pytest

from pytest_capsule._linux.netlink import RouteSocket, loopback_up


def test_a_new_namespace_has_a_loopback_that_can_be_set_up(isolated):
    def inside():
        with RouteSocket() as route:
            before = [(link.name, link.up) for link in route.links()]
            loopback_up()
            after = [(link.name, link.up) for link in route.links() if link.name == "lo"]
            return before, after, [address.address for address in route.addresses()]

    before, after, addresses = isolated(inside)
    assert ("lo", False) in before
    assert after == [("lo", True)]
    assert "127.0.0.1" in addresses


def test_a_bridge_has_the_given_hardware_address_and_mtu(isolated):
    def inside():
        with RouteSocket() as route:
            route.create_bridge("br0", mac="02:42:0a:00:00:01", mtu=1400)
            route.set_up("br0")
            return next(link for link in route.links() if link.name == "br0")

    link = isolated(inside)
    assert (link.kind, link.up, link.mac, link.mtu) == ("bridge", True, "02:42:0a:00:00:01", 1400)


def test_a_pair_has_its_peer_in_the_other_namespace_under_the_name_given_there(isolated, namespaces):
    def inside():
        spaces = namespaces()
        other = spaces.new()
        with RouteSocket() as route:
            route.create_bridge("br0")
            route.create_veth(
                "port1", "eth0", peer_namespace=other, peer_mac="02:42:0a:00:00:02", master="br0", up=True
            )
            here = {link.name: link for link in route.links()}
        with spaces.standing_in(other), RouteSocket() as route:
            there = {link.name: link for link in route.links()}
        return here, there

    here, there = isolated(inside)
    assert here["port1"].up
    assert here["port1"].master == here["br0"].number
    assert "eth0" not in here
    assert (there["eth0"].kind, there["eth0"].up, there["eth0"].mac) == ("veth", False, "02:42:0a:00:00:02")


def test_a_socket_speaks_for_the_namespace_in_which_it_was_made(isolated, namespaces):
    def inside():
        spaces = namespaces()
        other = spaces.new()
        with RouteSocket() as route, spaces.standing_in(other):
            route.create_bridge("br0")
            with RouteSocket() as elsewhere:
                return [link.name for link in route.links()], [link.name for link in elsewhere.links()]

    at_home, elsewhere = isolated(inside)
    assert "br0" in at_home
    assert "br0" not in elsewhere


def test_a_link_is_renamed_resized_readdressed_taken_off_its_bridge_and_deleted(isolated):
    def inside():
        with RouteSocket() as route:
            route.create_bridge("br0")
            route.create_veth("one", "two")
            route.set_master("one", "br0")
            joined = next(link for link in route.links() if link.name == "one").master == route.index("br0")
            route.set_master("one", None)
            route.rename("one", "first")
            route.set_mtu("first", 1280)
            route.set_mac("first", "02:00:00:00:00:07")
            route.set_up("first")
            up = next(link for link in route.links() if link.name == "first")
            route.set_down("first")
            down = next(link for link in route.links() if link.name == "first")
            route.delete_link("first")
            return joined, up, down, [link.name for link in route.links()]

    joined, up, down, left = isolated(inside)
    assert joined
    assert (up.master, up.mtu, up.mac, up.up) == (0, 1280, "02:00:00:00:00:07", True)
    assert not down.up
    assert "first" not in left
    assert "two" not in left


def test_addresses_of_both_families_are_usable_at_once_and_a_default_route_leads_out(isolated):
    def inside():
        with RouteSocket() as route:
            route.create_veth("eth0", "peer")
            route.set_up("peer")
            route.add_address("eth0", "10.0.0.2", 24)
            route.add_address("eth0", "fd00::2", 64)
            route.set_up("eth0")
            route.add_default_route("eth0", "10.0.0.1")
            route.add_default_route("eth0", "fd00::1")
            number = route.index("eth0")
            found = {a.address: a for a in route.addresses() if a.number == number}
        with open("/proc/net/route") as file:
            routes = [line.split()[:3] for line in file]
        return found, routes

    tentative = 0x40  # IFA_F_TENTATIVE
    found, routes = isolated(inside)
    assert found["10.0.0.2"].prefix == 24
    assert found["fd00::2"].prefix == 64
    assert not found["fd00::2"].flags & tentative
    assert ["eth0", "00000000", "0100000A"] in routes


@pytest.mark.parametrize(
    ("operation", "number", "words", "subject"),
    [
        (lambda route: route.set_up("none0"), errno.ENODEV, "find link", "none0"),
        (lambda route: route.delete_link("none0"), errno.ENODEV, "delete link", "none0"),
        (lambda route: route.create_bridge("lo"), errno.EEXIST, "create bridge", "lo"),
        (lambda route: route.create_bridge("a-name-too-long-for-a-link"), errno.ERANGE, "create bridge", "a-name-too"),
        (lambda route: route.add_address("lo", "10.0.0.300", 24), errno.EINVAL, "read address", "10.0.0.300"),
        (lambda route: route.add_address("lo", "127.0.0.1", 40), errno.EINVAL, "add address 127.0.0.1/40 to", "lo"),
        (lambda route: route.add_default_route("lo", "10.0.0.1"), errno.ENETUNREACH, "add default route", "lo"),
    ],
)
def test_a_failure_says_which_operation_on_which_link(isolated, operation, number, words, subject):
    def inside():
        loopback_up()
        with RouteSocket() as route:
            try:
                operation(route)
            except OSError as error:
                return error.errno, error.strerror, error.filename
        return None

    found = isolated(inside)
    assert found[0] == number
    assert words in found[1]
    assert os.strerror(number) in found[1]
    assert found[2].startswith(subject)


# What tc of iproute2 6.1 sends as TCA_OPTIONS for: netem delay 100ms 10ms loss 25% rate 1mbit (as strace shows it).
OPTIONS_OF_TC = bytes.fromhex(
    "84d71700 e8030000 00000040 00000000 00000000 5a620200 1400 0600 48e80100 00000000 00000000 00000000"
)
NANOSECONDS_OF_A_TICK = 64  # /proc/net/psched


def test_a_slow_network_is_asked_for_as_tc_does(monkeypatch):
    """Also on a kernel that has no netem to ask."""
    asked = []
    monkeypatch.setattr(RouteSocket, "_change", lambda self, *message: asked.append(message))
    with RouteSocket() as route:
        route.set_netem("lo", latency=0.1, jitter=0.01, loss=0.25, rate=125_000)
        number = route.index("lo")

    ((kind, flags, body, *_),) = asked
    assert (kind, flags) == (36, 0x500)  # RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE
    assert body[:20] == struct.pack("=BxxxiIII", 0, number, 0, 0xFFFFFFFF, 0)  # tcmsg, at TC_H_ROOT
    attributes = attributes_of(body[20:])
    assert attributes[1] == b"netem\0"
    ours, of_tc = (
        (struct.unpack("=6I", options[:24]), attributes_of(options[24:])) for options in (attributes[2], OPTIONS_OF_TC)
    )
    latency, *between, jitter = of_tc[0]
    assert ours[0] == (0, *between, 0)
    times = {10: latency, 11: jitter}  # TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64: in full
    assert ours[1] == of_tc[1] | {key: struct.pack("=q", ticks * NANOSECONDS_OF_A_TICK) for key, ticks in times.items()}


def attributes_of(data):
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def test_it_works_where_nothing_can_be_imported_any_more(isolated, tmp_path):
    def inside():
        os.chroot(tmp_path)
        os.chdir("/")
        loopback_up()
        with RouteSocket() as route:
            route.create_bridge("br0", mac="02:42:0a:00:00:01")
            route.add_address("br0", "fd00::1", 64)
            route.add_address("br0", "10.0.0.1", 24)
            route.set_up("br0")
            return [link.name for link in route.links()], len(route.addresses())

    names, addresses = isolated(inside)
    assert "br0" in names
    assert addresses >= 3


def test_the_supervisor_pays_for_no_heavy_module():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import pytest_capsule.network.bridge, pytest_capsule.network.forwarder\n"
        "print(*({'dataclasses', 'inspect', 'ipaddress', 'asyncio', 'logging', 'pytest'} & set(sys.modules)))"
    )
    import pytest_capsule

    home = os.path.dirname(os.path.dirname(pytest_capsule.__file__))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, home], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
