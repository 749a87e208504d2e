"""What ``stats`` says of a workload, beside what Docker says of the same one, with the same image and limits."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess

import pytest
from peers import docker_daemon

DEADLINE = 60.0
LIMITS = {"memory": "96m", "cpus": 0.5, "pids": 20}
# Some processes, some memory that is held, a certain work, and then nothing more.
WORK = """
sleep 1000 & sleep 1000 & sleep 1000 &
head -c 40000000 /dev/zero | tail -c 40000000 | (read -r _; sleep 1000) &
i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done
echo done; sleep 1000
"""
HELD = 40_000_000
OURS_ALONE = 8 << 20  # bytes of init, and of the writable layer, which with us is in memory

pytestmark = pytest.mark.identities("root")


class Local(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path):
        super().__init__("docker")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


@pytest.fixture(scope="module")
def docker(tmp_path_factory, debian_tar):
    """``docker(...)``: what the client prints; ``docker.stats(container)``: what the daemon counts."""
    room = tmp_path_factory.mktemp("docker")
    with docker_daemon(room) as client:

        def run(*words):
            done = subprocess.run([*client, *words], capture_output=True, text=True, check=True, timeout=DEADLINE)
            return done.stdout.strip()

        def stats(container):
            connection = Local(str(room / "socket"))
            connection.request("GET", f"/containers/{container}/stats?stream=false&one-shot=true")
            found = json.load(connection.getresponse())
            connection.close()
            return found

        run("import", str(debian_tar), "debian")
        run.stats, run.client = stats, client
        yield run


@pytest.fixture
def both(engine, debian_image, docker, eventually):
    """The same at work in a container of each: ours, and the name of Docker's."""
    words = [word for name, value in LIMITS.items() for word in (f"--{name.replace('pids', 'pids-limit')}", str(value))]
    theirs = docker("run", "--detach", "--network=none", *words, "debian", "sh", "-c", WORK)
    try:
        with engine.run(debian_image, command=["sh", "-c", WORK], network="none", **LIMITS) as ours:
            eventually(lambda: "done" in ours.logs(), DEADLINE)
            eventually(lambda: "done" in docker("logs", theirs), DEADLINE)
            eventually(lambda: ours.stats()["memory"] > HELD, DEADLINE)
            eventually(lambda: docker.stats(theirs)["memory_stats"]["usage"] > HELD, DEADLINE)
            yield ours, theirs
    finally:
        docker("rm", "--force", theirs)


def test_they_count_the_same(both, docker):
    ours, theirs = both
    mine, their = ours.stats(), docker.stats(theirs)
    printed = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", theirs))

    assert mine["pids"] == their["pids_stats"]["current"] == int(printed["PIDs"])
    assert mine["memory_limit"] == their["memory_stats"]["limit"] == 96 << 20
    held = mebibytes(printed["MemUsage"].split(" / ")[0])
    assert held - OURS_ALONE / 4 <= mine["memory"] <= held + OURS_ALONE
    worked = their["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
    assert worked / 3 <= mine["cpu"] <= worked * 3  # of the same work, on a machine that has others too


def test_they_hold_to_the_same(both, docker):
    """Who may have so many processes, and no more, and which part of the machine's time."""
    ours, theirs = both
    throttled = docker.stats(theirs)["cpu_stats"]["throttling_data"]["throttled_periods"]
    assert throttled > 0
    assert ours.limits["cpus"].how == "enforced"
    fork = "n=0; while [ $n -lt 40 ]; do sleep 1000 & n=$((n + 1)); done; echo all"
    mine = ours.exec(["sh", "-c", fork])
    their = subprocess.run(
        [*docker.client, "exec", theirs, "sh", "-c", fork], capture_output=True, text=True, timeout=DEADLINE
    )
    assert ("all" in mine.stdout, "all" in their.stdout) == (False, False)
    assert "fork" in mine.stderr and "fork" in their.stderr
    assert ours.stats()["pids"] == docker.stats(theirs)["pids_stats"]["current"]


def mebibytes(text):
    return float(text.removesuffix("MiB")) * (1 << 20)
