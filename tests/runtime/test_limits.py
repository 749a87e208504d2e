"""``memory``, ``cpus`` and ``pids``: enforced by the kernel where it lets us, else watched over, and never in silence.

Every test holds for both; what differs is what ``how`` says, which is found out as an engine does: by trying.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import ContainerError, UsageError
from pytest_capsule.runtime.cgroups import Cgroups
from pytest_capsule.runtime.limits import Limits

HOG = "head -c 1000000000 /dev/zero | tail"  # tail keeps it all: there is no line in it
FORKS = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); sleep 1000 & done; wait"


def refused():
    """For each limit that no group can hold a process to here, why."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        _, failures = Cgroups().enclose(process.pid, "tests", Limits(memory=1 << 26, cpus=0.5, pids=9))
        process.communicate()
        Cgroups().remove("tests")
    return failures


REFUSED = refused()


def how(name):
    return "advisory" if name in REFUSED else "enforced"


def enforced(*names):
    reasons = [f"{name}: {REFUSED[name]}" for name in names if name in REFUSED]
    return pytest.mark.skipif(bool(reasons), reason=f"no control group here: {'; '.join(reasons)}")


def advisory(name):
    return pytest.mark.skipif(name not in REFUSED, reason=f"the kernel enforces {name} here")


def directory(container, name):
    return Path(container.limits[name].why.removeprefix("cgroup "))


def counter(path, key):
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == key)


@pytest.mark.parametrize(("name", "value"), [("memory", "64m"), ("cpus", 0.5), ("pids", 20)])
def test_a_limit_says_who_sees_to_it_and_why(engine, name, value):
    with engine.run("capsule/host", command=[], **{name: value}) as container:
        assert list(container.limits) == [name]
        limit = container.limits[name]

        assert limit.how == how(name)
        if limit.how == "enforced":
            assert directory(container, name).is_dir()
        else:
            assert limit.why.startswith(f"{REFUSED[name].filename.split(' ')[0]} ")
            assert REFUSED[name].strerror in limit.why


def test_a_container_without_limits_stays_in_the_group_of_its_engine(host):
    assert host.limits == {}
    assert Path(f"/proc/{host.init_pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    assert "memory_limit" not in host.stats()
    assert (host.oom_killed, host.killed_for) == (False, None)


@enforced("pids")
def test_a_container_sees_its_own_group_and_cannot_change_it(engine):
    """What Docker shows at /sys/fs/cgroup: programs read there how much they have."""
    with engine.run("capsule/host", command=[], pids=50) as container:
        groups = container.exec(["cat", "/proc/self/cgroup"]).stdout
        assert {line.split(":")[2] for line in groups.splitlines()} == {"/"}
        (file,) = [f for f in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max") if container.exists(f)]
        assert container.read_text(file) == "51\n"  # init is one more
        refused = container.exec(f"echo 1000 >{file}")
        assert refused.exit_code != 0
        assert "Read-only" in refused.stderr
        assert container.exec(["mkdir", os.path.dirname(file) + "/mine"]).exit_code != 0


def test_a_container_that_eats_its_memory_is_killed_and_says_so(engine):
    with engine.run("capsule/host", command=HOG, memory="64m") as container:
        assert container.wait(60) == 137

        assert container.exit_code == 137
        assert container.status == "exited"
        assert container.oom_killed
        assert container.killed_for == "out of memory (limit 64 MiB)"
    assert container.oom_killed, "known beyond its end"


def test_a_command_that_eats_the_memory_dies_alone(engine):
    with engine.run("capsule/host", command=[], memory="64m") as container:
        assert container.exec(HOG, timeout=60).exit_code == 137
        assert container.oom_killed
        assert container.exec(["echo", "on we go"]).stdout == "on we go\n"


def test_who_stays_within_its_memory_is_left_alone(engine):
    with engine.run("capsule/host", command="head -c 10000000 /dev/zero | tail | wc -c", memory="64m") as container:
        assert container.wait(60) == 0
        assert container.logs() == "10000000\n"
        assert not container.oom_killed


def test_the_least_memory_is_enough_to_run_something(engine):
    with engine.run("capsule/host", command="echo small", memory="6m") as container:
        assert container.wait(60) == 0
        assert container.logs() == "small\n"


def test_files_count_too_and_a_full_layer_leaves_the_container_alive(engine):
    """The writable layer is in memory."""
    if not engine._stacking.overlays().in_memory:
        pytest.skip("before Linux 6.6 it is on disk")
    with engine.run("capsule/host", command=[], memory="32m") as container:
        result = container.exec("dd if=/dev/zero of=/big bs=1M count=100", timeout=60)

        assert result.exit_code == 137 if how("memory") == "enforced" else "No space left" in result.stderr
        assert container.exec(["rm", "/big"]).exit_code == 0
        assert container.exec(["touch", "/small"]).exit_code == 0


def test_stats_show_the_memory_beside_its_limit(engine, eventually):
    with engine.run(
        "capsule/host", command="head -c 20000000 /dev/zero | tail -c 20000000 | (read -r _; sleep 1000)", memory="64m"
    ) as container:
        eventually(lambda: container.stats()["memory"] > 10_000_000)
        stats = container.stats()

        assert stats["memory_limit"] == 64 << 20
        assert stats["memory"] < stats["memory_limit"]
        assert stats["pids"] >= 2


@enforced("pids")
def test_the_kernel_refuses_one_process_too_many(engine, eventually):
    with engine.run("capsule/host", command=FORKS, pids=10) as container:
        group = directory(container, "pids")
        eventually(lambda: counter(group / "pids.events", "max") > 0)

        assert 9 <= container.stats()["pids"] <= 10
        assert container.killed_for is None


@enforced("pids")
def test_a_command_that_has_no_process_left_says_what_to_raise(engine):
    with engine.run("capsule/host", command=["sleep", "1000"], pids=1) as container:
        with pytest.raises(
            ContainerError, match=r"no more processes can be started\n  hint: end some, or raise its pids="
        ):
            container.exec(["true"])
        container.stop(0)
        assert container.exec(["true"]).exit_code == 0


@advisory("pids")
def test_a_container_with_too_many_processes_is_killed_and_says_so(engine):
    with engine.run("capsule/host", command=FORKS, pids=10) as container:
        assert container.wait(60) == 137
        assert container.killed_for == "too many processes (limit 10)"
        assert not container.oom_killed


@enforced("cpus")
def test_the_kernel_throttles_who_wants_more_than_its_part(engine, eventually):
    with engine.run("capsule/host", command="while :; do :; done", cpus=0.1) as container:
        group = directory(container, "cpus")

        eventually(lambda: counter(group / "cpu.stat", "nr_throttled") > 0)


@advisory("cpus")
def test_a_container_is_bound_to_as_many_processors(engine):
    with engine.run("capsule/host", command=["sleep", "1000"], cpus=0.5) as container:
        assert len(os.sched_getaffinity(container.init_pid)) == 1
        assert container.exec(["nproc"]).stdout == "1\n"
        assert "bound to 1 of " in container.limits["cpus"].why


@pytest.mark.parametrize("wrong", [{"memory": "64x"}, {"memory": "5m"}, {"cpus": 100_000}, {"pids": -5}])
def test_a_wrong_limit_is_named_before_anything_starts(engine, wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^{name}="):
        engine.run("capsule/host", command=[], **wrong)
    assert not engine._open


def groups_of(container):
    return {directory(container, name) for name, limit in container.limits.items() if limit.how == "enforced"}


@enforced("memory", "cpus", "pids")
def test_nothing_is_left_of_the_group_when_the_container_is_closed(engine):
    with engine.run("capsule/host", command=FORKS, memory="64m", cpus=0.5, pids=10) as container:
        groups = groups_of(container)
        assert groups
        assert all(group.is_dir() for group in groups)
    assert not any(group.exists() for group in groups)


@enforced("pids")
def test_nothing_is_left_of_a_container_that_could_not_start(engine, tmp_path):
    import pytest_capsule.runtime.cgroups as cgroups

    place = None
    with engine.run("capsule/host", command=[], pids=5) as container:
        place = directory(container, "pids").parent
    with pytest.raises(ContainerError):
        engine.run("capsule/host", command=["no-such-program"], pids=5)
    assert not [name for name in os.listdir(place) if name.startswith(cgroups._own_prefix())]


@enforced("memory", "pids")
def test_another_engine_leaves_the_groups_of_a_living_one_alone(engine, tmp_path):
    with engine.run("capsule/host", command=[], memory="64m", pids=10) as container, Engine(tmp_path):
        assert all(group.is_dir() for group in groups_of(container))
        assert container.exec(["true"]).exit_code == 0


@enforced("memory", "pids")
def test_what_a_killed_engine_leaves_goes_with_the_next_ones_start(engine, eventually, tmp_path):
    code = """
import sys, time
from pytest_capsule import Engine
engine = Engine(sys.argv[1])
container = engine.run("capsule/host", command=["sleep", "1000"], memory="64m", pids=10)
print(*(limit.why.removeprefix("cgroup ") for limit in container.limits.values()), sep="\\n", flush=True)
sys.stdin.read()
"""
    killed = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "killed"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with killed:
        groups = [Path(killed.stdout.readline().rstrip("\n")) for _ in range(2)]
        assert all(group.is_dir() for group in groups)
        killed.send_signal(signal.SIGKILL)
    eventually(lambda: not any((group / "cgroup.procs").read_text() for group in groups))
    assert all(group.is_dir() for group in groups), "nobody was there to remove them"

    with Engine(tmp_path / "next"):
        assert not any(group.exists() for group in groups)
