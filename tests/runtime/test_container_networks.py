"""Networks: none, the host's, one of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import psutil
import pytest

from pytest_capsule import Engine, wait
from pytest_capsule._linux.capabilities import DEFAULT, NAMES
from pytest_capsule.errors import CapsuleWarning, UnsupportedHost, UsageError
from pytest_capsule.network.gateway import CONNECTIONS

SERVER = ["python3", "-m", "http.server", "8000", "--bind", "::"]
CALL = "import socket; (lambda address: socket.create_connection(address, 20).close())"


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
            lines = container.read_text("/etc/hosts").splitlines()
            known = [name for line in lines if line.startswith("10.") for name in re.findall(r"\bn\d\b", line)]
            assert sorted(known) == names
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


def test_several_names_and_both_kinds_of_address(engine):
    with engine.network() as network:
        options = {"command": SERVER, "wait": wait.port(8000)}
        with (
            engine.run("capsule/host", name="one", network=network, **options) as one,
            engine.run("capsule/host", name="two", network=network.alias("db", "db.example"), **options) as two,
        ):
            for name in ("two", "db", "db.example"):
                for container in (one, two):
                    assert fetch(container, f"http://{name}:8000/").stdout == "200\n"
            for family, address in (("AF_INET", two.ip), ("AF_INET6", two.ip6)):
                script = f"import socket as s; print(s.getaddrinfo('db', 8000, s.{family})[0][4][0])"
                assert one.exec(["python3", "-c", script]).stdout.strip() == address


@pytest.mark.parametrize("name", ["a b", "a\n10.0.0.9\tb", "a#", ""])
def test_what_is_no_host_name(engine, name):
    with engine.network() as network:
        with pytest.raises(UsageError, match="is no host name"):
            engine.run("capsule/host", command=[], network=network.alias(name))
        with pytest.raises(UsageError, match="is no name of a container"):
            engine.run("capsule/host", command=[], network=network, name=f"x{name} ")
        with engine.run("capsule/host", command=[]) as alone, pytest.raises(UsageError, match="is no host name"):
            network.connect(alone, aliases=[name])
        assert network.entries() == []


def test_one_network_namespace_for_two_containers(engine):
    with (
        engine.network() as network,
        engine.run("capsule/host", name="main", network=network, command=SERVER, wait=wait.port(8000)) as main,
        engine.run("capsule/host", name="side", network="container:main", command=[]) as side,
    ):
        assert side.ip == main.ip
        assert fetch(side, "http://127.0.0.1:8000/").stdout == "200\n"
        assert side.exec("hostname").stdout == main.exec("hostname").stdout
        assert "eth0" in side.listdir("/sys/class/net")
        side.connect(8000).close()
        with engine.run("capsule/host", name="late", network=network, command=SERVER, wait=wait.port(8000)):
            assert fetch(side, "http://late:8000/").stdout == "200\n"
        assert "late" not in side.read_text("/etc/hosts")
        with engine.run("capsule/host", network=side, command=[]) as third:
            assert fetch(third, "http://main:8000/").stdout == "200\n"
        with pytest.raises(UsageError, match="hostname="):
            engine.run("capsule/host", network=main, command=[], hostname="other")
    with pytest.raises(UsageError, match="no such container runs"):
        engine.run("capsule/host", network="container:main", command=[])


def test_twenty_containers_reach_each_other_by_name(engine):
    names = [f"node{number}" for number in range(20)]
    script = (
        "import socket, sys\n"
        "for name in sys.argv[1:]:\n"
        "    with socket.create_connection((name, 9000), 60) as sock:\n"
        "        assert sock.recv(100).decode() == name, name\n"
    )
    server = (
        "import socket\n"
        "name = socket.gethostname().encode()\n"
        "with socket.create_server(('', 9000), backlog=64) as server:\n"
        "    while True:\n"
        "        sock = server.accept()[0]\n"
        "        sock.sendall(name)\n"
        "        sock.close()\n"
    )

    def start(name):
        options = {"command": ["python3", "-S", "-c", server], "wait": wait.port(9000), "timeout": 120}
        return engine.run("capsule/host", name=name, hostname=name, network=network, **options)

    with engine.network() as network, ThreadPoolExecutor(4) as pool:
        containers = list(pool.map(start, names))
        asked = [one.popen(["python3", "-S", "-c", script, *names], stdout=None) for one in containers]
        for process in asked:
            _, said = process.communicate(timeout=120)
            assert (process.returncode, said) == (0, "")
        for container in containers:
            container.close()


@pytest.fixture
def server_of_the_test():
    """A server in the test's own process, on loopback only: what it answers says who asked for what."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server, ThreadPoolExecutor(8) as pool:

        def answer(sock):
            with sock:
                sock.sendall(b"you said " + sock.recv(100))

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    pool.submit(answer, server.accept()[0])

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("shared", [False, True], ids=["its own", "another's"])
def test_network_none_reaches_no_server_of_the_host(engine, server_of_the_test, shared):
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(engine.run("capsule/host", command=[], network="none"))
        if shared:
            container = stack.enter_context(engine.run("capsule/host", command=[], network=container))
        for name in ("host.capsule.internal", "127.0.0.12", "localhost"):
            refused = container.exec(["python3", "-c", TALK, name, str(server_of_the_test)])
            assert refused.exit_code != 0, refused.stdout
            assert "Errno" in refused.stderr


TALK = (
    "import socket, sys\n"
    "for number in range(3):\n"
    "    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as sock:\n"
    "        sock.sendall(b'hello')\n"
    "        sock.shutdown(socket.SHUT_WR)\n"
    "        print(sock.recv(100).decode())\n"
)


@pytest.mark.parametrize("kind", ["own", "host", "shared", "network"])
def test_the_host_by_its_name(engine, server_of_the_test, kind):
    with contextlib.ExitStack() as stack:
        network = {"own": None, "host": "host"}.get(kind)
        if kind == "shared":
            network = stack.enter_context(engine.run("capsule/host", command=[]))
        if kind == "network":
            network = stack.enter_context(engine.network())
        container = stack.enter_context(engine.run("capsule/host", command=[], network=network))
        said = container.exec(["python3", "-c", TALK, "host.capsule.internal", str(server_of_the_test)])
        assert said.stdout == "you said hello\n" * 3


def test_the_host_by_a_name_of_ones_own(engine, server_of_the_test):
    with engine.run("capsule/host", command=[], extra_hosts={"api.example": "host-gateway"}) as container:
        said = container.exec(["python3", "-c", TALK, "api.example", str(server_of_the_test)])
        assert said.stdout == "you said hello\n" * 3


def test_a_port_of_the_host_where_nobody_listens(engine):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with engine.run("capsule/host", command=[]) as container:
        said = container.exec(["python3", "-c", TALK, "host.capsule.internal", str(port)])
        assert re.search("ConnectionResetError|BrokenPipeError|OSError|NotConnected", said.stderr)


def test_a_name_that_nobody_has_is_refused_at_once(engine):
    with engine.run("capsule/host", command=[]) as container:
        script = "import socket; socket.getaddrinfo('nobody.example', 80)"
        said = container.exec(["python3", "-c", script], timeout=20)
        assert "Name or service not known" in said.stderr


def test_the_way_to_the_host_goes_with_the_container(engine, server_of_the_test, eventually):
    def gateways():
        supervisor = psutil.Process(engine._supervisor.pid)
        return {one.pid for one in supervisor.children() if one.name() == "capsule"}

    before = gateways()
    with engine.run("capsule/host", command=[]) as container:
        container.exec(["python3", "-c", TALK, "host.capsule.internal", str(server_of_the_test)], check=True)
        assert gateways() - before
    assert eventually(lambda: not gateways() - before)


HOLD = """
import resource, socket, sys, threading, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket()
    sock.settimeout(0.01)
    try:
        sock.connect(("host.capsule.internal", int(sys.argv[1])))
    except OSError:  # in the queue of the listener, or there is no room in that
        pass
    held.append(sock)
print(len(held), flush=True)
sys.stdin.read()
"""


def test_a_container_that_connects_to_the_host_without_end_waits(engine, eventually, identity):
    """As at any listener whose queue is full: who carries the connections has only so many threads and descriptors."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server, engine.run("capsule/host", command=[]) as one:
        before = {child.pid for child in psutil.Process(engine._supervisor.pid).children()}
        port = str(server.getsockname()[1])
        with one.popen(["python3", "-c", HOLD, port, "2000"]) as hostile:
            assert hostile.stdout.readline() == "2000\n"
            (gateway,) = [
                child
                for child in psutil.Process(engine._supervisor.pid).children()
                if child.pid not in before and child.name() == "capsule"
            ]
            assert eventually(lambda: gateway.num_threads() > CONNECTIONS)
            assert gateway.num_threads() <= 2 * CONNECTIONS + 1
            if identity == "root":  # nobody else may look: it is not dumpable
                assert gateway.num_fds() <= 2 * CONNECTIONS + 20
            hostile.stdin.close()
            hostile.wait(20)
            for _ in range(CONNECTIONS):  # as a server does with those who hang up
                server.accept()[0].close()
            eventually(lambda: gateway.num_threads() < CONNECTIONS)
        assert one.exec(["python3", "-c", CONNECT, port], timeout=60).stdout == "done\n"


CONNECT = "import socket, sys; socket.create_connection(('host.capsule.internal', int(sys.argv[1]))); print('done')"


def own_address():
    """An address of this machine that is not loopback: what is reached there has left the container's network."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    return None


@pytest.fixture(params=["slirp4netns", "pasta"])
def program(request, identity, monkeypatch, tmp_path):
    """The one program for ways out that is there."""
    program = request.param
    found = shutil.which(program)
    address = own_address()
    if found is None or address is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        missing = f"it needs {program}, /dev/net/tun for everybody and an address: sudo scripts/install-peers"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    (tmp_path / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_a_way_out(engine, host, program):
    with socket.create_server((own_address(), 0)) as server:
        with engine.run("capsule/host", command=[], network="bridge") as container:
            container.exec(["python3", "-c", f"{CALL}({server.getsockname()})"], check=True)
            server.accept()[0].close()
            assert container.ip in container.exec("cat /proc/net/fib_trie").stdout
        names = [one.name() for one in psutil.Process(engine._supervisor.pid).children(recursive=True)]
        assert program not in names


def test_a_network_with_a_way_out(engine, host, program, server_of_the_test):
    with (
        socket.create_server((own_address(), 0)) as server,
        engine.network(outbound=True) as network,
        engine.run("capsule/host", name="db", command=SERVER, network=network, wait=wait.port(8000)),
        engine.run("capsule/host", name="app", command=[], network=network) as app,
    ):
        for address in (("db", 8000), server.getsockname()):
            app.exec(["python3", "-c", f"{CALL}({address})"], check=True)
        server.accept()[0].close()
        said = app.exec(["python3", "-c", TALK, "host.capsule.internal", str(server_of_the_test)])
        assert said.stdout == "you said hello\n" * 3


@pytest.fixture
def no_program(host, monkeypatch, tmp_path):
    """No program for ways out is there."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_hosts_network_stands_in_for_a_way_out_and_that_is_said_once(
    tmp_path_factory, no_program, server_of_the_test
):
    read_capabilities = "grep CapBnd /proc/self/status | cut -f 2"
    with Engine(tmp_path_factory.mktemp("stand-in")) as engine, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with engine.run("capsule/host", command=[], network="bridge") as one:
            assert [(each.category, "apt-get install slirp4netns" in str(each.message)) for each in warned] == [
                (CapsuleWarning, True)
            ]
            with engine.run("capsule/host", command=[], network="bridge") as other:
                for container in (one, other):
                    with open("/proc/self/ns/net") as ours:
                        assert os.path.samestat(os.fstat(ours.fileno()), _network_of(container))
            for address in ("127.0.0.1", "host.capsule.internal"):
                one.exec(["python3", "-c", TALK, address, str(server_of_the_test)], check=True)
            assert one.address(server_of_the_test) == ("127.0.0.1", server_of_the_test)
            rights = int(one.exec(read_capabilities).stdout, 16)
            assert {name for number, name in enumerate(NAMES) if rights >> number & 1} == DEFAULT - {"NET_RAW"}
        assert len(warned) == 1


def _network_of(container):
    namespace = container.network_namespace()
    try:
        return os.fstat(namespace)
    finally:
        os.close(namespace)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"ports": [80]}, "publishes ports"),
        ({"privileged": True}, "is privileged"),
        ({"cap_add": ["cap_net_raw"]}, "the capability NET_RAW"),
        ({"cap_add": ["ALL"]}, "the capability ALL"),
    ],
)
def test_the_hosts_network_does_not_stand_in_where_it_is_another_thing(engine, no_program, keywords, reason):
    with pytest.raises(UnsupportedHost, match=f"neither slirp4netns nor pasta is installed.*{reason}") as caught:
        engine.run("capsule/host", command=[], network="bridge", **keywords)
    assert "apt-get install slirp4netns" in caught.value.hint
    with engine.run("capsule/host", command=[], **keywords):  # which asks for no way out
        pass


def test_a_network_of_its_own_has_no_stand_in(engine, no_program):
    with engine.network("inner", outbound=True) as network:
        with pytest.raises(UnsupportedHost, match="it is to be on network inner"):
            engine.run("capsule/host", command=[], network=network)
        assert network.entries() == []


def test_who_wants_no_stand_in_makes_an_error_of_the_warning(engine, no_program):
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", CapsuleWarning)
            with pytest.raises(CapsuleWarning, match="neither slirp4netns nor pasta"):
                engine.run("capsule/host", command=[], network="bridge")


def test_no_such_network(engine):
    with pytest.raises(UsageError, match="no such network") as caught:
        engine.run("capsule/host", command=[], network="brigde")
    assert "container:NAME" in (caught.value.hint or "")
