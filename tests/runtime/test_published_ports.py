"""Ports of containers on the host: Docker's forms, many connections at once, and numbers that nobody can take."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_capsule import wait
from pytest_capsule.errors import ContainerError, UsageError

ECHO = """
import socket, sys, threading
def serve(sock):
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)
def answer(sock):
    while True:
        data, who = sock.recvfrom(65536)
        sock.sendto(data.upper(), who)
for port in range(9000, 9003):
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("", port))
    threading.Thread(target=answer, args=(udp,), daemon=True).start()
    tcp = socket.create_server(("", port), backlog=1024)
    def loop(tcp=tcp):
        while True:
            threading.Thread(target=serve, args=(tcp.accept()[0],), daemon=True).start()
    threading.Thread(target=loop).start()
"""


@pytest.fixture
def echo(engine):
    started = []

    def start(*ports):
        options = {"command": ["python3", "-c", ECHO], "wait": wait.port(9002), "timeout": 120}
        started.append(engine.run("capsule/host", ports=ports, **options))
        return started[-1]

    yield start
    for container in started:
        container.close()


def say(address, data):
    with socket.create_connection(address, 60) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            return file.read()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_hundred_connections_at_once_lose_nothing(echo):
    address = echo(9000).address(9000)
    with ThreadPoolExecutor(100) as pool:
        sent = [bytes([number]) * 50_000 for number in range(100)]
        assert list(pool.map(lambda data: say(address, data), sent)) == sent


def test_dockers_forms(echo):
    port = free_port()
    container = echo(9000, f"{port}:9001", "127.0.0.1:0:9002/tcp", "9000-9001/udp")
    assert container.published[9001, "tcp"] == ("127.0.0.1", port)
    for number in (9000, 9001, 9002):
        assert say(container.address(number), b"heard") == b"heard"
    for number in (9000, 9001):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.connect(container.published[number, "udp"])
            sock.send(b"datagram")
            assert sock.recv(100) == b"DATAGRAM"


def test_any_port_unpublished(echo):
    container = echo()
    assert container.published == {}
    with container.connect(9001) as sock:
        sock.sendall(b"inside")
        assert sock.recv(100) == b"inside"
    assert say(container.address(9001), b"outside") == b"outside"


def test_datagrams_to_a_port_that_was_not_published(echo):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect(echo().address("9001/udp"))
        sock.send(b"datagram")
        assert sock.recv(100) == b"DATAGRAM"


def test_an_address_at_which_this_machine_reaches_it(echo):
    container = echo("0.0.0.0:0:9000", "[::]:0:9001", "[::1]:0:9002")
    everywhere = {place[0] for place in container.published.values()}
    assert everywhere == {"0.0.0.0", "::", "::1"}
    for number, host in ((9000, "127.0.0.1"), (9001, "::1"), (9002, "::1")):
        assert container.address(number)[0] == host
        assert say(container.address(number), b"heard") == b"heard"
    assert container.url(9002, "x") == f"http://[::1]:{container.address(9002)[1]}/x"


def test_one_address_for_all_who_ask_at_once(echo):
    container = echo()
    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(lambda _: container.address(9000), range(20)))) == 1


@pytest.mark.parametrize("port", [0, -1, 65536, "http", "9000-9001"])
def test_what_is_no_port(echo, port):
    container = echo()
    for ask in (container.address, container.url, container.connect):
        with pytest.raises(UsageError, match="the port"):
            ask(port)
    with pytest.raises(UsageError, match="it is for TCP") as caught:
        container.connect("9000/udp")
    assert 'address("9000/udp")' in caught.value.hint


def test_a_number_that_is_taken_is_an_error_and_one_that_is_left_open_is_nobody_elses(echo):
    first = echo("0:9000")
    taken = first.address(9000)[1]
    with pytest.raises(ContainerError, match="cannot be published"):
        echo(f"{taken}:9000")
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", taken)).close()
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda _: echo(9000), range(4)))
    ports = {container.address(9000)[1] for container in (first, *others)}
    assert len(ports) == 5


def test_what_the_image_exposes(engine, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM capsule/host\nEXPOSE 8000 53/udp\n")
    with engine.run(engine.build(tmp_path), command=[]) as container:
        assert container.exposed == ("53/udp", "8000/tcp")
