"""Containers' namespaces wired to a hub, as their inits do it."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from pytest_capsule._linux.netlink import RouteSocket
from pytest_capsule.network.addresses import Subnet
from pytest_capsule.network.bridge import BRIDGE, attach, configure, create_hub, detach, ipv6_available, plug

SUBNET = Subnet(0, ipv6=ipv6_available())
ONE, TWO = SUBNET.host(2), SUBNET.host(3)


def make_hub(spaces, subnet=SUBNET):
    hub = spaces.new()
    with spaces.standing_in(hub):
        create_hub(subnet.gateway.addresses, subnet.gateway.mac)
    return hub


def make_container(spaces, hub, host, port):
    own = spaces.new()
    with spaces.standing_in(own):
        attach(hub, own, port, mac=host.mac, addresses=host.addresses, gateways=[SUBNET.gateway.ipv4])
    return own


def listening(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def talk(spaces, server_space, server_address, client_space):
    """What a server that stands in one namespace receives from a client in the other, and the client's address."""
    with spaces.standing_in(server_space):
        server = listening(server_address)
    with spaces.standing_in(client_space):
        client = socket.create_connection(server.getsockname()[:2], timeout=20)
    server.settimeout(20)
    with server, client:
        client.sendall(b"hello")
        connection, address = server.accept()
        with connection:
            return connection.recv(100), address[0]


def test_a_hub_holds_a_bridge_with_the_gateways_addresses(isolated, namespaces):
    def inside():
        spaces = namespaces()
        with spaces.standing_in(make_hub(spaces)), RouteSocket() as route:
            bridge = next(link for link in route.links() if link.name == BRIDGE)
            return bridge, {a.address for a in route.addresses() if a.number == bridge.number}

    bridge, addresses = isolated(inside)
    assert (bridge.kind, bridge.up, bridge.mac) == ("bridge", True, SUBNET.gateway.mac)
    assert {SUBNET.gateway.ipv4, SUBNET.gateway.ipv6} <= addresses


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_two_containers_reach_each_other_by_each_family(isolated, namespaces, family):
    def inside():
        spaces = namespaces()
        hub = make_hub(spaces)
        one = make_container(spaces, hub, ONE, "port2")
        two = make_container(spaces, hub, TWO, "port3")
        return talk(spaces, one, getattr(ONE, family), two)

    if not getattr(ONE, family):
        pytest.skip("this kernel has no IPv6")
    assert isolated(inside) == (b"hello", getattr(TWO, family))


def test_a_container_reaches_the_gateway_and_keeps_its_hardware_address(isolated, namespaces):
    def inside():
        spaces = namespaces()
        hub = make_hub(spaces)
        own = make_container(spaces, hub, ONE, "port2")
        said = talk(spaces, hub, SUBNET.gateway.ipv4, own)
        with spaces.standing_in(own), RouteSocket() as route:
            return said, next(link.mac for link in route.links() if link.name == "eth0")

    assert isolated(inside) == ((b"hello", ONE.ipv4), ONE.mac)


def test_two_networks_do_not_see_each_other_although_their_addresses_are_the_same(isolated, namespaces):
    def inside():
        spaces = namespaces()
        first, second = make_hub(spaces), make_hub(spaces)
        make_container(spaces, first, ONE, "port2")
        make_container(spaces, second, ONE, "port2")
        counts = []
        for hub in (first, second):
            with spaces.standing_in(hub), RouteSocket() as route:
                counts.append(sum(link.master != 0 for link in route.links()))
        return counts

    assert isolated(inside) == [1, 1]


def test_a_container_in_two_networks_has_an_interface_in_each(isolated, namespaces):
    other = Subnet(1, ipv6=SUBNET.ipv6)

    def inside():
        spaces = namespaces()
        first, second = make_hub(spaces), make_hub(spaces, other)
        own = make_container(spaces, first, ONE, "port2")
        with spaces.standing_in(own):
            host = other.host(2)
            attach(second, own, "port2", interface="eth1", mac=host.mac, addresses=host.addresses)
        return talk(spaces, own, ONE.ipv4, first), talk(spaces, own, other.host(2).ipv4, second)

    assert isolated(inside) == ((b"hello", SUBNET.gateway.ipv4), (b"hello", other.gateway.ipv4))


def test_a_port_name_that_is_taken_is_an_error_that_leaves_the_caller_where_it_stood(isolated, namespaces):
    def inside():
        spaces = namespaces()
        hub = make_hub(spaces)
        make_container(spaces, hub, ONE, "port2")
        own = spaces.new()
        with spaces.standing_in(own):
            before = os.stat("/proc/self/ns/net").st_ino
            try:
                attach(hub, own, "port2", addresses=TWO.addresses)
            except OSError as error:
                same = os.stat("/proc/self/ns/net").st_ino == before
                return error.errno, error.filename, same
        return None

    assert isolated(inside) == (errno.EEXIST, "port2, eth0", True)


def test_a_wrong_address_leaves_nothing_of_the_pair(isolated, namespaces):
    def inside():
        spaces = namespaces()
        hub = make_hub(spaces)
        own = spaces.new()
        with spaces.standing_in(own):
            try:
                attach(hub, own, "port2", addresses=[("10.0.0.2", 99)])
            except OSError as error:
                number = error.errno
            with RouteSocket() as route:
                here = [link.name for link in route.links()]
        with spaces.standing_in(hub), RouteSocket() as route:
            return number, here, [link.name for link in route.links()]

    number, here, at_hub = isolated(inside)
    assert number == errno.EINVAL
    assert "eth0" not in here
    assert "port2" not in at_hub


def test_detach_takes_both_ends_away_and_may_come_twice(isolated, namespaces):
    def inside():
        spaces = namespaces()
        hub = make_hub(spaces)
        own = make_container(spaces, hub, ONE, "port2")
        with spaces.standing_in(own):
            detach(hub, own, "port2")
            detach(hub, own, "port2")
            with RouteSocket() as route:
                return [link.name for link in route.links()]

    assert "eth0" not in isolated(inside)


def test_a_process_with_a_socket_of_the_hub_plugs_containers_in_from_where_it_stands(isolated, namespaces):
    def inside():
        spaces = namespaces()
        hub, own = make_hub(spaces), spaces.new()
        with spaces.standing_in(hub):
            hub_route = RouteSocket()
        with hub_route:
            plug(hub_route, own, "port2", mac=ONE.mac)
        with spaces.standing_in(own):
            configure("eth0", ONE.addresses)
        return talk(spaces, own, ONE.ipv4, hub)

    assert isolated(inside) == (b"hello", SUBNET.gateway.ipv4)
