"""Nothing is left, whatever happens: many containers at once and in a row, kills at random moments, rude containers.

The counts are those of CI, where ordinary users try a tenth; ``CAPSULE_SOAK=0.05`` is a quick try. After each part: no
process, mount, network namespace, control group, folder or descriptor more than before, and the engine still works.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from watching import PATIENCE, descriptors, until

from pytest_capsule import Engine
from pytest_capsule.errors import CapsuleError

PR_SET_CHILD_SUBREAPER = 36
MEMORY = 4 << 20  # bytes that a live container may cost; 3 MB is the goal


@pytest.fixture(scope="module")
def scale(identity: str) -> float:
    return float(os.environ.get("CAPSULE_SOAK") or (1.0 if identity == "root" else 0.1))


def descendants() -> dict[int, str]:
    """Everything that we have started, or that was left to us: who outlives its parent becomes our own child."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())[:100]
    return found


def groups() -> set[str]:
    """The control groups of this user's engines that are no more, or of this process."""
    found = set()
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name.startswith("pytest-capsule-") and "-" in name[15:]:
                pid, group = name.split("-")[3], Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    is_ours = group.stat().st_uid == os.geteuid()
                    if is_ours and (pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}")):
                        found.add(str(group))
    return found


class Ledger:
    """What there was before, and whether there is more now."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.processes = descendants()
        self.descriptors = descriptors()
        self.groups = groups()

    def check(self) -> None:
        """Whether all that came since is gone, once those have ended that are ending."""
        assert until(lambda: not descendants().keys() - self.processes.keys()), descendants()
        assert until(lambda: groups() <= self.groups), groups() - self.groups
        now = descriptors()
        assert len(now) <= len(self.descriptors), sorted({*now.items()} - {*self.descriptors.items()})
        assert str(self.cache) not in Path("/proc/self/mountinfo").read_text()
        new = {*now.values()} - {*self.descriptors.values()}
        assert not [link for link in new if link.startswith(("net:", "mnt:", "pid:"))]

    def check_disk(self) -> None:
        """What a kill has left on disk goes with the next start."""
        with Engine(self.cache):
            pass
        assert [path for path in self.cache.glob("*/tmp/*") if path.suffix != ".lock"] == []


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache = tmp_path_factory.mktemp("soak")
    yield cache
    with Engine(cache) as engine:  # with a range of ids only an engine may touch all that is in there
        for layers in cache.glob("*/layers"):
            engine._call_in_store("remove", str(layers))


@pytest.fixture
def ledger(cache: Path) -> Iterator[Ledger]:
    """Checked, with a last run of hello-world, when a test is over."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with Engine(cache) as engine:  # what is imported and made once
            engine.image("capsule/host")
            engine.run("hello-world").close()
        ledger = Ledger(cache)
        yield ledger
        ledger.check()
        ledger.check_disk()
        with Engine(cache) as engine, engine.run("hello-world") as container:
            assert container.wait(PATIENCE) == 0
        ledger.check()
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def held(*pids: int) -> int:
    """The memory that is free when processes go: what they share with nobody. Only root may ask that of ours."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids) if os.geteuid() == 0 else 0


def test_many_alive_at_once(ledger: Ledger, scale: float, record_property: Callable[[str, object], None]) -> None:
    count = int(200 * scale) or 1
    with Engine(ledger.cache) as engine:
        containers = [engine.run("capsule/host", command=["sleep", "1000"]) for _ in range(count)]
        assert all(container.status == "running" for container in containers)
        assert containers[0].exec(["cat", "/proc/1/comm"]).stdout == "init\n"
        each = sorted(held(*(process["pid"] for process in one.top())) for one in containers)[count // 2]
        began = time.monotonic()
    record_property("memory", each)
    record_property("seconds", time.monotonic() - began)
    assert each <= MEMORY


def test_many_in_a_row(ledger: Ledger, scale: float) -> None:
    with Engine(ledger.cache) as engine:
        for _ in range(20):
            engine.run("hello-world").close()
        supervisor = psutil.Process(engine._supervisor.pid)
        open_before, held_before = len(descriptors()), held(supervisor.pid)
        for _ in range(int(1000 * scale)):
            with engine.run("hello-world") as container:
                assert container.wait(PATIENCE) == 0
        assert len(descriptors()) <= open_before + 4  # a blank container may be on its way
        assert held(supervisor.pid) < held_before + (4 << 20)
        assert until(lambda: len(supervisor.children()) <= 4)  # blank, and one that was ordered


VICTIM = """
import json, sys, threading
from pytest_capsule import Engine
engine = Engine(sys.argv[1])
def go_on():
    while True:
        with engine.run("capsule/host", command=sys.argv[2], memory="64m", ports=[80]) as one:
            one.exec("echo written > /file")
print(json.dumps(engine.run("capsule/host", command=["sleep", "1002"]).pid), flush=True)
for _ in range(2):
    threading.Thread(target=go_on).start()
"""


def test_an_engine_killed_at_random_moments(ledger: Ledger, scale: float) -> None:
    chance = random.Random(3)
    for _ in range(int(20 * scale) or 1):
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(ledger.cache), "sleep 1000 & setsid sleep 1001 & wait"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
        assert until(lambda: not descendants().keys() - ledger.processes.keys()), descendants()
    with Engine(ledger.cache):  # what it finds of those is removed
        assert groups() <= ledger.groups


WIRED = """
import json, socket, sys, threading
from pytest_capsule import Engine
engine = Engine(sys.argv[1])
network, other = engine.network("wired"), engine.network()
sleep = ["sleep", "1003"]
one, two = (engine.run("capsule/host", command=sleep, network=network, name=name, ports=[80]) for name in "ab")
third = engine.run("capsule/host", command=sleep, network=other, ports=["0:53/udp"])
with socket.create_server(("127.0.0.1", 0)) as server:  # the way to the host is made when it is first asked for
    script = f"import socket; socket.create_connection(('host.capsule.internal', {server.getsockname()[1]}), 20)"
    one.exec(["python3", "-c", script], check=True)
one.exec("getent hosts b", check=True)
network.disconnect(two)
print(json.dumps(one.pid), flush=True)
while True:
    network.connect(two)
    network.disconnect(two)
"""


def test_an_engine_with_networks_killed_at_random_moments(ledger: Ledger, scale: float) -> None:
    chance = random.Random(5)
    for _ in range(int(6 * scale) or 1):
        with subprocess.Popen(
            [sys.executable, "-c", WIRED, str(ledger.cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline(), process.stderr.read()
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
        assert until(lambda: not descendants().keys() - ledger.processes.keys()), descendants()


@pytest.mark.parametrize("victim", ["supervisor", "init"])
def test_a_process_of_ours_killed_at_random_moments(ledger: Ledger, scale: float, victim: str) -> None:
    chance = random.Random(4)
    with Engine(ledger.cache) as engine:
        for _ in range(int(40 * scale) or 1):
            with contextlib.ExitStack() as stack:
                one = stack.enter_context(engine.run("capsule/host", command=["sleep", "1000"]))
                number = one.init_pid if victim == "init" else engine._supervisor.pid
                assert number is not None
                killer = subprocess.Popen(["sh", "-c", f"sleep {chance.uniform(0, 0.02)}; kill -9 {number}"])
                stack.callback(killer.wait)
                with contextlib.suppress(CapsuleError, OSError):
                    for _ in range(200):
                        one.exec(["true"])
                        stack.enter_context(engine.run("hello-world"))
                assert until(one.is_gone)
                assert one.status == "exited"
                assert one.exit_code == 137


RUDE = {
    "forks without end": "while :; do sleep 1000 & done",
    "ignores SIGTERM": "trap '' TERM HUP INT; echo ready; while :; do sleep 1; done",
    "fills its disk": "echo ready; while :; do cat /dev/zero > /full-$((i = i + 1)); done 2>/dev/null",
    "eats its memory": "echo ready; x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done",
    "leaves zombies": "for i in 1 2 3 4 5 6 7 8; do sh -c 'sleep 0.01 & exec sleep 1000' & done; echo ready; wait",
    "leaves daemons": "setsid sleep 1000 & setsid sleep 1000 & setsid sh -c 'sleep 1001 & sleep 1002' & echo ready",
    "holds its stdout": "sleep 1000 & sleep 1000 <&0 & echo ready",
}


@pytest.mark.parametrize("command", RUDE.values(), ids=RUDE.keys())
def test_a_rude_container(ledger: Ledger, command: str) -> None:
    with Engine(ledger.cache) as engine:
        with engine.run("capsule/host", command=command, memory="64m", pids=60) as container:
            until(lambda: "ready" in container.logs() or len(container.top()) > 40 or container.exit_code is not None)
            container.stop(timeout=0.5)
            assert container.status == "exited"
        with engine.run("capsule/host", command=command, memory="64m", pids=60) as container:
            until(
                lambda: "ready" in container.logs() or len(container.top()) > 40 or container.exit_code is not None, 5
            )
        with engine.run("hello-world") as container:
            assert container.wait(PATIENCE) == 0


def test_a_command_that_leaves_its_output_to_a_daemon(ledger: Ledger) -> None:
    with Engine(ledger.cache) as engine, engine.run("capsule/host", command=[]) as container:
        assert container.exec("setsid sleep 1000 & echo done", timeout=PATIENCE).stdout == "done\n"
