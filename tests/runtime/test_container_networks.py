"""Networks: none, the host's, one of their own."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest

from pytest_capsule import wait
from pytest_capsule.errors import UsageError

SERVER = ["python3", "-m", "http.server", "8000", "--bind", "::"]


def fetch(container, url):
    script = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).status)"
    return container.exec(["python3", "-c", script], timeout=30)


def test_by_itself_a_container_has_loopback_and_nothing_else(engine, host):
    with engine.run("capsule/host", command=[], network="none") as none:
        for container in (host, none):
            assert container.listdir("/sys/class/net") == ["lo"]
            lines = container.read_text("/proc/net/route").splitlines()
            assert len(lines) == 1
            assert container.exec("cat /sys/class/net/lo/flags").stdout == "0x9\n"  # up


def test_the_hosts_network_is_the_hosts(engine, census):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        engine.run("capsule/host", command=[], network="host") as container,
    ):
        port = server.getsockname()[1]
        assert (
            container.exec(
                ["python3", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"]
            ).exit_code
            == 0
        )
        assert container.address(port) == ("127.0.0.1", port)


def test_names_reach_both_ways_and_those_that_come_later(engine):
    with engine.network() as network:
        options = {"network": network, "command": SERVER, "wait": wait.port(8000)}
        with engine.run("capsule/host", name="one", **options) as one:
            with engine.run("capsule/host", name="two", **options) as two:
                assert fetch(one, "http://two:8000/").stdout == "200\n"
                assert fetch(two, "http://one:8000/").stdout == "200\n"
                assert fetch(two, "http://two:8000/").stdout == "200\n"
                assert one.ip != two.ip
                assert fetch(one, f"http://{two.ip}:8000/").stdout == "200\n"
            assert "two" not in one.read_text("/etc/hosts")
            one.exec("echo '10.0.0.1 mine' >>/etc/hosts")
            with engine.run("capsule/host", name="two", **options):
                assert fetch(one, "http://two:8000/").stdout == "200\n"
                assert "mine" in one.read_text("/etc/hosts")


def test_ipv6_works_between_containers(engine):
    with engine.network() as network:
        options = {"network": network, "command": SERVER, "wait": wait.port(8000)}
        with (
            engine.run("capsule/host", name="one", **options) as one,
            engine.run("capsule/host", name="two", **options) as two,
        ):
            addresses = two.exec("cat /proc/net/if_inet6").stdout.splitlines()
            raw = next(line.split()[0] for line in addresses if line.endswith("eth0") and line.startswith("fd"))
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw))
            assert fetch(one, f"http://[{address}]:8000/").stdout == "200\n"


def test_two_networks_do_not_reach_each_other(engine):
    with engine.network() as one, engine.network() as other:
        options = {"command": SERVER, "wait": wait.port(8000)}
        with (
            engine.run("capsule/host", name="a", network=one, **options) as a,
            engine.run("capsule/host", name="b", network=other, **options) as b,
        ):
            assert fetch(a, "http://b:8000/").exit_code != 0
            script = f"import socket; socket.create_connection(('{b.ip}', 8000), 0.2)"
            assert a.ip != b.ip
            assert a.exec(["python3", "-c", script]).exit_code != 0


def test_two_of_one_name_on_one_network_are_refused(engine):
    with engine.network() as network, engine.run("capsule/host", name="twin", network=network, command=[]) as first:
        with pytest.raises(UsageError, match="twin"):
            engine.run("capsule/host", name="twin", network=network, command=[])
        assert first.exec(["true"]).exit_code == 0
        with engine.run("capsule/host", name="other", network=network, command=[]) as other:
            assert "twin" in other.read_text("/etc/hosts")


def test_containers_that_start_at_once_all_know_each_other(engine):
    names = [f"n{number}" for number in range(8)]
    with engine.network() as network, ThreadPoolExecutor(8) as pool:
        containers = list(
            pool.map(lambda name: engine.run("capsule/host", name=name, network=network, command=[]), names)
        )
        for container in containers:
            known = re.findall(r"\bn\d\b", container.read_text("/etc/hosts"))
            assert sorted(set(known)) == names
            assert len(known) == len(names)
        for container in containers:
            container.close()


def test_a_closed_network_takes_nobody(engine):
    network = engine.network()
    with engine.run("capsule/host", name="member", network=network, command=SERVER, wait=wait.port(8000)) as member:
        network.close()
        network.close()
        assert fetch(member, "http://member:8000/").stdout == "200\n"
        with pytest.raises(UsageError, match="closed"):
            engine.run("capsule/host", network=network, command=[])


def test_a_published_port_is_reached_from_outside(engine):
    with engine.run("capsule/host", command=SERVER, ports=[8000], wait=wait.http("/", port=8000)) as container:
        with urlopen(container.url(8000), timeout=10) as answer:
            assert answer.status == 200
        address = container.address(8000)
        assert address == container.address(8000)
    with pytest.raises(OSError):
        socket.create_connection(address, 5).close()
