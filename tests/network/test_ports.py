"""Docker's ways to write a published port."""

from __future__ import annotations

import contextlib
import socket

import pytest

from pytest_capsule.errors import ContainerError, UsageError
from pytest_capsule.network.ports import PortMapping, listen, parse_inner_port, parse_port, parse_ports


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        (8000, PortMapping(8000)),
        ("8000", PortMapping(8000, 0, "127.0.0.1", "tcp")),
        ("8000/tcp", PortMapping(8000)),
        ("53/udp", PortMapping(53, protocol="udp")),
        ("53/UDP", PortMapping(53, protocol="udp")),
        ("8080:8000", PortMapping(8000, 8080)),
        (":8000", PortMapping(8000)),
        ("0:8000", PortMapping(8000, 0)),
        ("0.0.0.0:8080:8000", PortMapping(8000, 8080, "0.0.0.0")),
        ("127.0.0.1:0:8000/tcp", PortMapping(8000)),
        ("127.0.0.2::8000", PortMapping(8000, 0, "127.0.0.2")),
        ("[::1]:8080:80", PortMapping(80, 8080, "::1")),
        ("[::]::80/udp", PortMapping(80, 0, "::", "udp")),
        ("65535:1", PortMapping(1, 65535)),
        ("8000-8010:9000", PortMapping(9000, 8000, last=8010)),
    ],
)
def test_one_port(text, mapping):
    assert parse_port(text) == (mapping,)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("8000-8002", [(0, 8000), (0, 8001), (0, 8002)]),
        ("8000-8001:9000-9001", [(8000, 9000), (8001, 9001)]),
        ("127.0.0.1::8000-8001", [(0, 8000), (0, 8001)]),
        ("7-7", [(0, 7)]),
    ],
)
def test_a_range_is_as_many_ports(text, pairs):
    assert [(mapping.host_port, mapping.port) for mapping in parse_port(text)] == pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not of the form"),
        ("http", "'http', which is no port number"),
        (0, "'0': ports go from 1 to 65535"),
        (65536, "'65536': ports go from 1 to 65535"),
        (-1, "'-1', which is no port number"),
        ("80:", "not of the form"),
        ("70000:80", "'70000': ports go from 0 to 65535"),
        ("8000/sctp", "the protocol 'sctp', not tcp or udp"),
        ("8000/", "the protocol '', not tcp or udp"),
        ("localhost:8080:80", "'localhost', which is no IP address"),
        ("::1:8080:80", "not of the form"),
        ("[::1:8080:80", "not of the form"),
        ("[127.0.0.1]:8080:80", "which is no IP address"),
        ("1:2:3:4", "not of the form"),
        ("9000-8000", "the range '9000-8000', which goes backwards"),
        ("8000-8010:9000-9001", "11 host ports for 2 container ports"),
        ("8000:9000-9010", "1 host ports for 11 container ports"),
        ("\uff18\uff10", "which is no port number"),
        ("80 ", "which is no port number"),
        (True, "True is neither a number nor a text"),
        (None, "None is neither a number nor a text"),
        (80.0, "80.0 is neither a number nor a text"),
    ],
)
def test_a_wrong_port_says_what_is_wrong_and_shows_a_right_one(text, words):
    with pytest.raises(UsageError) as caught:
        parse_port(text)
    assert words in caught.value.message
    assert "8080:8000" in str(caught.value)


def test_the_text_of_a_mapping_means_the_same_mapping():
    for mapping in (
        PortMapping(80, 8080, "::1"),
        PortMapping(53, protocol="udp"),
        PortMapping(8000),
        PortMapping(80, 8000, last=8010),
    ):
        assert parse_port(str(mapping)) == (mapping,)


def test_a_list_keeps_its_order_and_equal_ones_once():
    assert parse_ports([8000, "8000/tcp", "53/udp"]) == (PortMapping(8000), PortMapping(53, protocol="udp"))


def test_one_host_port_cannot_be_two_container_ports_but_each_protocol_has_its_own():
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:8080:80/tcp and 127\.0\.0\.1:8080:81/tcp"):
        parse_ports(["8080:80", "8080:81"])
    assert len(parse_ports(["8080:80", "8080:80/udp", "127.0.0.2:8080:80"])) == 3


def test_containers_may_share_a_range_of_host_ports():
    assert len(parse_ports(["8000-8010:80", "8000-8010:81"])) == 2


@pytest.mark.parametrize(
    ("port", "meant"), [(80, (80, "tcp")), ("80", (80, "tcp")), ("80/tcp", (80, "tcp")), ("53/UDP", (53, "udp"))]
)
def test_a_port_inside(port, meant):
    assert parse_inner_port(port) == meant


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (0, "ports go from 1 to 65535"),
        (65536, "ports go from 1 to 65535"),
        (-1, "no port number"),
        (True, "neither a number nor a text"),
        (80.0, "neither a number nor a text"),
        ("http", "no port number"),
        ("80-90", "a range, not one port"),
        ("80:80", "no port number"),
        ("80/", "the protocol '', not tcp or udp"),
    ],
)
def test_what_is_no_port_inside(port, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_inner_port(port)
    assert caught.value.hint == 'for example 8000 or "53/udp"'


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_of_a_range_the_first_that_is_free(protocol):
    with contextlib.ExitStack() as taken:
        first = 20000
        while True:  # two in a row that are free now
            with contextlib.suppress(ContainerError):
                taken.enter_context(listen(PortMapping(80, first, protocol=protocol)))
                listen(PortMapping(80, first + 1, protocol=protocol)).close()
                break
            first += 1
        with listen(PortMapping(80, first, protocol=protocol, last=first + 1)) as one:
            assert one.getsockname()[1] == first + 1
            with pytest.raises(
                ContainerError, match=f"127.0.0.1:{first}-{first + 1}:80/{protocol} cannot be published"
            ):
                listen(PortMapping(80, first, protocol=protocol, last=first + 1))


def test_a_list_of_ports_is_no_single_port():
    with pytest.raises(UsageError, match=r"ports=\['8000'\]"):
        parse_ports("8000")


def test_listening_on_any_free_port_takes_a_real_one():
    with listen(PortMapping(80)) as tcp, listen(PortMapping(53, protocol="udp")) as udp:
        assert tcp.getsockname()[0] == "127.0.0.1"
        assert tcp.getsockname()[1] > 0
        assert udp.type == socket.SOCK_DGRAM
        socket.create_connection(tcp.getsockname(), timeout=20).close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_taken_port_is_an_error_with_the_mend(protocol):
    with listen(PortMapping(80, protocol=protocol)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ContainerError) as caught:
            listen(PortMapping(80, port, protocol=protocol))
    assert f"127.0.0.1:{port}:80/{protocol}" in str(caught.value)
    assert "leave the host port out" in str(caught.value)
