"""Networks that fail: cables pulled, partitions, and connections that are slow or lose."""

from __future__ import annotations

import socket
import time

import pytest

from pytest_capsule import wait
from pytest_capsule.errors import UnsupportedHost, UsageError

SERVER = ["python3", "-m", "http.server", "8000", "--bind", "::"]
ASK = "import socket, sys; socket.create_connection((sys.argv[1], 8000), float(sys.argv[2])).close()"


def reaches(container, name, seconds=20):
    return container.exec(["python3", "-c", ASK, name, str(seconds)], timeout=60).exit_code == 0


@pytest.fixture
def network(engine):
    with engine.network() as network:
        yield network


@pytest.fixture
def server_on(engine):
    started = []

    def start(network, name):
        started.append(
            engine.run("capsule/host", name=name, network=network, command=SERVER, wait=wait.port(8000), timeout=60)
        )
        return started[-1]

    yield start
    for container in started:
        container.close()


def test_a_pulled_cable_says_nothing_and_is_plugged_in_again(network, server_on, eventually):
    one, two = server_on(network, "one"), server_on(network, "two")
    network.disconnect(two)
    said = one.exec(["python3", "-c", ASK, "two", "0.3"])
    assert "TimeoutError" in said.stderr
    assert not reaches(two, "one", 0.3)
    two.connect(8000).close()  # the test itself still reaches it
    network.connect(two)
    assert eventually(lambda: reaches(one, "two"))
    assert eventually(lambda: reaches(two, "one"))


def test_a_connection_survives_a_short_cut(network, server_on, eventually):
    one, two = server_on(network, "one"), server_on(network, "two")
    script = (
        "import socket, sys\n"
        "s = socket.create_connection(('two', 8000), 60)\n"
        "print('connected', flush=True)\n"
        "sys.stdin.readline()\n"
        "s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
        "print('sent', flush=True)\n"
        "print(s.recv(8).decode(), flush=True)\n"
    )
    with one.popen(["python3", "-c", script]) as client:
        assert client.stdout.readline() == "connected\n"
        network.disconnect(two)
        client.stdin.write("go\n")
        client.stdin.flush()
        assert client.stdout.readline() == "sent\n"
        network.connect(two)
        assert client.stdout.readline() == "HTTP/1.0\n"


def test_a_partition_and_its_end(network, server_on, eventually):
    a, b, c, d = (server_on(network, name) for name in "abcd")
    network.partition([a, b], [c])
    assert reaches(a, "b")
    assert reaches(b, "a")
    for one, other in ((a, "c"), (a, "d"), (c, "a"), (d, "c")):
        assert not reaches(one, other, 0.3)
    network.partition([a, c])
    assert eventually(lambda: reaches(a, "c"))  # one that has just asked in vain waits a second before it asks again
    assert eventually(lambda: reaches(b, "d"))
    assert not reaches(a, "b", 0.3)
    network.disconnect(d)
    network.heal()
    assert eventually(lambda: reaches(a, "d"))
    assert eventually(lambda: reaches(b, "c"))


def test_a_container_on_two_networks(engine, network, server_on):
    with engine.network() as other:
        middle, left, right = server_on(network, "middle"), server_on(network, "left"), server_on(other, "right")
        alone = server_on(None, "alone")
        assert not reaches(right, middle.ip, 0.3)
        other.connect(middle, aliases=["bridge"])
        for name in ("middle", "bridge"):
            assert reaches(right, name)
        assert reaches(middle, "right")
        assert reaches(middle, "left")
        assert not reaches(left, "right", 0.3)
        other.connect(alone, aliases=["company"])
        assert reaches(alone, "right")
        for name in ("alone", "company"):
            assert reaches(right, name)
            assert reaches(alone, name)
        assert reaches(right, alone.ip)
        assert reaches(right, alone.ip6)
        middle.close()
        assert "middle" not in right.read_text("/etc/hosts")


def test_bandwidth(network, server_on):
    one, two = server_on(network, "one"), server_on(network, "two")
    two.exec("head -c 400000 /dev/zero >/srv-file", check=True)
    script = (
        "import time, urllib.request as u\n"
        "started = time.monotonic()\n"
        "assert len(u.urlopen('http://two:8000/srv-file', timeout=60).read()) == 400000\n"
        "print(time.monotonic() - started)\n"
    )

    def seconds():
        return float(one.exec(["python3", "-c", script], check=True, timeout=120).stdout)

    network.shape(two, bandwidth=1_000_000)
    assert seconds() > 1.5  # 3.2 million bits, but for a burst at the start
    network.shape(two)
    assert min(seconds() for _ in range(3)) < 1.5


def test_latency_and_loss_where_the_kernel_has_them(network, server_on):
    one, two = server_on(network, "one"), server_on(network, "two")
    try:
        network.shape(two, latency=0.2)
    except UnsupportedHost as error:
        assert "netem" in str(error)
        assert "sch_netem" in (error.hint or "")
        assert reaches(one, "two")
        return
    started = time.monotonic()
    assert reaches(one, "two")
    assert time.monotonic() - started >= 0.4  # there and back
    network.shape(two, loss=1.0)
    assert not reaches(one, "two", 0.3)
    network.shape(two)
    assert reaches(one, "two")


def test_a_paused_server_keeps_its_clients_waiting(server_on):
    server = server_on(None, "server")
    server.pause()
    with server.connect(8000) as client:  # the kernel accepts for it
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(0.2)
        with pytest.raises(socket.timeout):
            client.recv(1)
        server.unpause()
        client.settimeout(20)
        assert client.recv(4) == b"HTTP"


def test_what_makes_no_sense_is_said(engine, network, server_on):
    stranger = server_on(None, "stranger")
    for call in (network.disconnect, network.shape, lambda one: network.partition([one])):
        with pytest.raises(UsageError, match="not on network"):
            call(stranger)
    member = server_on(network, "member")
    with pytest.raises(UsageError, match="in two groups"):
        network.partition([member], [member])
    for values in ({"loss": 2}, {"latency": -1}, {"bandwidth": 0}):
        with pytest.raises(UsageError, match="loss is from 0 to 1"):
            network.shape(member, **values)
    on_host = engine.run("capsule/host", command=[], network="host")
    with on_host, pytest.raises(UsageError, match="host's network"):
        network.connect(on_host)
