"""``pause`` and ``unpause``: by the freezer where this user may use it, else by SIGSTOP."""

import os
import signal
from pathlib import Path

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import ContainerError
from pytest_capsule.runtime.cgroups import Cgroups, make_beneath, remove

COUNTER = "i=0; while :; do i=$((i + 1)); echo $i > /count.new; mv /count.new /count; done"


def has_freezer():
    try:
        directory = make_beneath(Cgroups().unified(), "try")
    except OSError:
        return False
    remove(directory)
    return True


@pytest.fixture
def counting(engine, eventually):
    with engine.run("capsule/host", command=COUNTER) as container:
        eventually(lambda: container.exists("/count"))
        yield container


def goes_on(container, eventually):
    before = container.read_text("/count")
    return eventually(lambda: container.read_text("/count") != before)


def states(container):
    return [process["status"] for process in container.top()[1:]]


def test_nothing_goes_on_and_files_are_there(counting, eventually):
    counting.pause()
    counting.pause()
    assert counting.status == "paused"
    before = counting.read_text("/count") if counting.exists("/count") else ""
    counting.write_text("/while", "paused")
    assert counting.read_text("/while") == "paused"
    assert (counting.read_text("/count") if counting.exists("/count") else "") == before
    with pytest.raises(ContainerError, match="is paused"):
        counting.exec(["true"])
    counting.unpause()
    assert counting.status == "running"
    goes_on(counting, eventually)
    assert counting.exec(["true"]).exit_code == 0


def test_again_and_closed_while_paused(engine, eventually):
    with engine.run("capsule/host", command=COUNTER) as container:
        eventually(lambda: container.exists("/count"))
        for _ in range(3):
            container.pause()
            container.unpause()
        goes_on(container, eventually)
        container.pause()
        pids = [process["pid"] for process in container.top()]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_paused_container_stops(engine, eventually):
    with engine.run("capsule/host", command="trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done") as container:
        eventually(lambda: "ready" in container.logs())
        container.pause()
        container.stop(timeout=20)
        assert container.exit_code == 5


@pytest.mark.parametrize(("stop_signal", "goes_on"), [("", True), ("SIGTERM", True), ("SIGUSR1", False)])
def test_a_paused_container_that_is_killed_goes_on_as_in_docker(engine, eventually, tmp_path, stop_signal, goes_on):
    """It would not hear of the signal else; one that is not its image's STOPSIGNAL waits for it."""
    line = f"STOPSIGNAL {stop_signal}\n" if stop_signal else ""
    (tmp_path / "Dockerfile").write_text(f"FROM capsule/host\n{line}")
    command = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with engine.run(build=tmp_path, command=command) as container:
        eventually(lambda: "ready" in container.logs())
        container.pause()
        container.kill("SIGTERM")
        if not goes_on:
            assert container.status == "paused"
            container.unpause()
        assert container.wait(20) == 5


def test_the_freezer_sends_no_signal(counting):
    if not has_freezer():
        pytest.skip("this user may make no control group v2 here")
    counting.pause()
    assert "stopped" not in states(counting)
    groups = {Path(f"/proc/{process['pid']}/cgroup").read_text() for process in counting.top()[1:]}
    assert all("-frozen" in group for group in groups)
    assert "-frozen" not in Path(f"/proc/{counting.init_pid}/cgroup").read_text()


def test_who_forks_without_end_is_paused_too(engine, eventually):
    """Processes may come faster than they can be put into the freezer."""
    bomb = "fork() { : >/forked; fork & fork & wait; }; fork"
    with engine.run("capsule/host", command=["sleep", "1000"], pids=60, memory="128m") as container:
        if container.limits["pids"].how != "enforced":
            pytest.skip("here it would be killed")
        container.popen(["sh", "-c", f"while :; do ({bomb}) 2>/dev/null; done"])
        eventually(lambda: container.exists("/forked"))
        container.pause()
        assert container.status == "paused"
        container.write_text("/forked", "while it is paused")
        assert container.read_text("/forked") == "while it is paused"
        container.unpause()
        eventually(lambda: not container.read_text("/forked"))


def test_where_there_is_no_freezer_processes_are_stopped(tmp_path, eventually, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Cgroups, "unified", refuse)
    with Engine(tmp_path / "cache") as engine, engine.run("capsule/host", command=COUNTER) as container:
        eventually(lambda: container.exists("/count"))
        container.pause()
        # also a shell that is in vfork(2) while its child is stopped, or whose child has just ended
        eventually(lambda: set(states(container)) <= {"stopped", "disk-sleep", "zombie"})
        container.unpause()
        goes_on(container, eventually)


def test_groups_are_gone_with_their_container(engine, eventually):
    with engine.run("capsule/host", command=["sleep", "1000"], memory="64m") as container:
        container.pause()
        container.kill(signal.SIGKILL)
        assert container.wait(20) == 137
        label = container.id[:12]
    found = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if label in folder]
    assert found == []
