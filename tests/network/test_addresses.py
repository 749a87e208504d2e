"""Which addresses the containers of a network get."""

from __future__ import annotations

import ipaddress

import pytest

from pytest_capsule.errors import UsageError
from pytest_capsule.network.addresses import IPV4_PREFIX, AddressPool, Subnet


def test_the_first_network_starts_at_ten_and_its_gateway_is_one():
    gateway = Subnet(0).gateway
    assert (gateway.ipv4, gateway.ipv6, gateway.mac) == ("10.0.0.1", "fd00::1", "02:42:0a:00:00:01")
    assert str(Subnet(0)) == "10.0.0.0/22"


def test_a_host_has_its_addresses_with_their_prefixes():
    assert Subnet(1).host(2).addresses == (("10.0.4.2", 22), ("fd00:0:0:1::2", 64))
    assert Subnet(1, ipv6=False).host(2).addresses == (("10.0.4.2", 22),)


def test_networks_do_not_overlap_and_all_are_private():
    subnets = [Subnet(number) for number in (0, 1, 2, 255, 256, 16383)]
    networks = [ipaddress.ip_network(f"{subnet.host(0).ipv4}/{IPV4_PREFIX}") for subnet in subnets]
    assert all(network.is_private for network in networks)
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])
    assert len({ipaddress.ip_network(f"{subnet.host(5).ipv6}/64", strict=False) for subnet in subnets}) == 6


def test_a_hardware_address_follows_from_the_ipv4_address_and_is_locally_administered():
    host = Subnet(3).host(300)
    assert host.mac == "02:42:" + ipaddress.ip_address(host.ipv4).packed.hex(":")
    assert int(host.mac[:2], 16) & 0b11 == 0b10


def test_a_pool_gives_every_host_once_and_says_when_it_is_empty():
    pool = AddressPool(Subnet(0))
    hosts = [pool.take() for _ in range(1021)]
    assert hosts[0].ipv4 == "10.0.0.2"
    assert hosts[-1].ipv4 == "10.0.3.254"
    assert len(set(hosts)) == 1021
    with pytest.raises(UsageError, match=r"10\.0\.0\.0/22 is full: 1021 containers"):
        pool.take()


def test_what_is_given_back_is_used_again_as_late_as_can_be():
    pool = AddressPool(Subnet(0))
    first = pool.take()
    pool.give_back(first)
    others = [pool.take() for _ in range(1020)]
    assert first not in others
    assert pool.take() == first


def test_a_host_that_is_not_taken_cannot_be_given_back():
    pool = AddressPool(Subnet(0))
    host = pool.take()
    pool.give_back(host)
    for wrong in (host, Subnet(0).host(900), Subnet(0).gateway):
        with pytest.raises(UsageError, match="is not taken"):
            pool.give_back(wrong)


@pytest.mark.parametrize("number", [-1, 16384])
def test_a_network_number_out_of_range_is_refused(number):
    with pytest.raises(UsageError, match="from 0 to 16383"):
        Subnet(number)


@pytest.mark.parametrize("number", [-1, 1023])
def test_a_host_number_out_of_range_is_refused(number):
    with pytest.raises(UsageError, match="from 0 to 1022"):
        Subnet(0).host(number)
