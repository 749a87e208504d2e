"""The texts of /etc/hosts, /etc/hostname and /etc/resolv.conf."""

from __future__ import annotations

import pytest

from pytest_capsule.errors import UsageError
from pytest_capsule.network.names import HostEntry, hostname, hosts, parse_extra_hosts, resolv_conf


def test_hosts_has_dockers_lines_then_extra_hosts_then_the_container_itself_then_its_peers():
    text = hosts(
        [HostEntry("10.0.0.2", ("web",)), HostEntry("fd00::2", ("web",))],
        extra=parse_extra_hosts({"db.example": "192.0.2.7"}),
        peers=[HostEntry("10.0.0.3", ("db", "database"))],
    )
    assert text == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "192.0.2.7\tdb.example\n"
        "10.0.0.2\tweb\n"
        "fd00::2\tweb\n"
        "10.0.0.3\tdb database\n"
    )


def test_hosts_without_ipv6_names_no_ipv6_address():
    assert hosts(ipv6=False) == "127.0.0.1\tlocalhost\n"


@pytest.mark.parametrize(
    ("given", "address", "name"),
    [
        (["db:10.0.0.5"], "10.0.0.5", "db"),
        (["db=10.0.0.5"], "10.0.0.5", "db"),
        (["db:fd00::5"], "fd00::5", "db"),
        (["db:[fd00::5]"], "fd00::5", "db"),
        (["db=fd00::5"], "fd00::5", "db"),
        ({"db": "10.0.0.5"}, "10.0.0.5", "db"),
        ({"db": "::1"}, "::1", "db"),
        ({"host.docker.internal": "host-gateway"}, "10.0.0.1", "host.docker.internal"),
        (["host.docker.internal:host-gateway"], "10.0.0.1", "host.docker.internal"),
    ],
)
def test_extra_hosts_in_each_of_dockers_forms(given, address, name):
    assert parse_extra_hosts(given, gateway="10.0.0.1") == (HostEntry(address, (name,)),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("db:10.0.0.5", "not a mapping or a list"),
        (["db"], "'db' is not of the form name:address"),
        ([":10.0.0.5"], "not of the form name:address"),
        (["db:"], "not of the form name:address"),
        ([7], "the extra host 7 is no text"),
        (["db:10.0.0.500"], "'10.0.0.500', which is no IP address"),
        ({"db": "example.org"}, "'example.org', which is no IP address"),
        ({"db": "10.0.0.5\x00"}, "which is no IP address"),
        ({"db": 5}, "the address 5 of the extra host 'db' is no text"),
        ({"d b": "10.0.0.5"}, "'d b' is no host name"),
        ({"db\n10.0.0.9 bank": "10.0.0.5"}, "is no host name"),
        ({"db#": "10.0.0.5"}, "is no host name"),
        ({"": "10.0.0.5"}, "'' is no host name"),
        ({"host": "host-gateway"}, "has no gateway"),
    ],
)
def test_a_wrong_extra_host_says_what_is_wrong(given, words):
    with pytest.raises(UsageError) as caught:
        parse_extra_hosts(given)
    assert words in str(caught.value)


def test_the_hostname_file_is_one_line():
    assert hostname("web-1.example") == "web-1.example\n"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "a" * 65])
def test_a_hostname_that_the_kernel_or_a_resolver_refuses_is_refused_first(name):
    with pytest.raises(UsageError):
        hostname(name)


def test_resolv_conf_names_the_containers_own_server_and_is_the_hosts_on_the_hosts():
    assert resolv_conf() == "nameserver 127.0.0.11\n"
    assert resolv_conf("nameserver 10.0.0.1\n") == "nameserver 10.0.0.1\n"
