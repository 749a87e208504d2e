"""An init that hostile code has taken over, as SYS_PTRACE lets it: what it can do to others through its descriptors."""

from __future__ import annotations

import array
import ctypes
import os
import signal
import socket

import psutil
import pytest

from pytest_capsule._linux import channel
from pytest_capsule.errors import ContainerError, ExecTimeout
from pytest_capsule.runtime import init, process, sandbox

PIDFD_GETFD = 438
of_root = pytest.mark.identities("root")  # without root no test may take a descriptor from an init


def taken(container, number):
    """A socket of the container's init, as whoever has taken it over has it."""
    pidfd = os.pidfd_open(container.init_pid)
    fd = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=fd)


def open_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@of_root
def test_ways_to_the_host_are_not_started_without_end(engine, host):
    """Each that is asked for is a process on the host."""

    def gateways():
        return [one for one in psutil.Process(engine._supervisor.pid).children() if one.name() == "capsule"]

    before, asked = len(gateways()), []
    network = os.open(f"/proc/{host.init_pid}/ns/net", os.O_RDONLY)
    with taken(host, init.GATE) as gate:
        for _ in range(200):
            asked.append(channel.ask(gate, {}, [network]))
    answered = 0
    for answers in asked:
        try:
            channel.answer(answers, 60)
            answered += 1
        except BrokenPipeError:
            pass
    assert 0 < answered == len(gateways()) - before <= 16
    for answers in asked:
        answers.close()
    os.close(network)
    with engine.run("capsule/host", command=[], extra_hosts={"api.example": "host-gateway"}) as other:
        assert other.exec(["echo", "here"]).stdout == "here\n"


@of_root
@pytest.mark.parametrize("what", ["junk", "nothing to answer on", "a file without end", "descriptors", "the end"])
def test_the_supervisor_goes_on_whatever_an_init_sends_it(engine, host, what, eventually):
    supervisor = engine._supervisor.pid
    before = open_descriptors(supervisor)
    with taken(host, init.GATE) as gate:
        if what == "junk":
            gate.send(b"=junk")
        elif what == "nothing to answer on":
            gate.send(b"={}")
        elif what == "a file without end":
            with open("/dev/zero", "rb") as zero:
                gate.sendmsg([b"="], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [zero.fileno()]))])
        elif what == "descriptors":
            for _ in range(20):
                gate.sendmsg([b"=[]"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 200))])
        else:
            gate.shutdown(socket.SHUT_RDWR)
    with engine.run("capsule/host", command=[]) as other:
        assert other.exec(["echo", "here"]).stdout == "here\n"
    assert engine._supervisor.pid == supervisor
    assert host.exec(["echo", "here"]).stdout == "here\n"
    assert eventually(lambda: open_descriptors(supervisor) < before + 20)


@of_root
def test_a_gate_that_was_shut_is_another_for_those_who_come_later(engine, host):
    with taken(host, init.GATE) as gate:
        gate.shutdown(socket.SHUT_RDWR)
    engine.run("capsule/host", command=[]).close()  # it may have been made before
    with engine.run("capsule/host", command=[], extra_hosts={"api.example": "host-gateway"}) as after:
        assert after.exec(["echo", "here"]).stdout == "here\n"


@pytest.fixture
def mute(engine, tmp_path, monkeypatch):
    """A container whose init is there and does nothing."""
    with engine.run("capsule/host", command=["sleep", "1000"]) as one:
        os.kill(one.init_pid, signal.SIGSTOP)
        monkeypatch.setattr(process, "PATIENCE", 0.3)
        monkeypatch.setattr(sandbox, "PATIENCE", 0.3)
        yield one


@pytest.mark.parametrize(
    "asking",
    [
        lambda one: one.exec(["true"]),
        lambda one: one.exec(["true"], timeout=1000),
        lambda one: one.exec(["true"], tty=True),
        lambda one: one.popen(["true"]),
        lambda one: one.read_text("/etc/hostname"),
        lambda one: one.connect(80),
        lambda one: one.kill(),
        lambda one: one.stop(timeout=0),
    ],
    ids=["exec", "with a timeout", "tty", "popen", "open", "connect", "kill", "stop"],
)
def test_an_init_that_does_not_answer_holds_nobody_for_ever(mute, asking):
    with pytest.raises(ContainerError, match=f"container {mute.name} does not answer: ") as caught:
        asking(mute)
    assert caught.value.container == mute.name
    assert "close() ends it" in caught.value.hint


def test_a_command_s_own_timeout_is_its_own(mute):
    with pytest.raises(ExecTimeout):
        mute.exec(["true"], timeout=0.1)


def test_a_command_that_was_given_up_before_it_began_does_not_run_on(mute, eventually, monkeypatch):
    with pytest.raises(ExecTimeout):
        mute.exec(["sleep", "4321"], timeout=0.1)
    monkeypatch.setattr(process, "PATIENCE", 60)
    os.kill(mute.init_pid, signal.SIGCONT)
    assert mute.exec(["echo", "here"], timeout=60).stdout == "here\n"
    assert eventually(lambda: not [row for row in mute.top() if "4321" in row["command"]])


def test_what_takes_long_is_waited_for(mute, in_thread):
    """Files are copied in by init too, as many as there are."""
    copied = in_thread(lambda: mute.diff())
    with pytest.raises(ContainerError, match="does not answer"):
        mute.exec(["true"])
    os.kill(mute.init_pid, signal.SIGCONT)
    assert copied() == []


def test_a_command_whose_end_is_never_told_ends_with_its_container(engine, in_thread, eventually):
    with engine.run("capsule/host", command=[]) as one:
        outcome = in_thread(lambda: one.exec(["sleep", "4321"]))
        assert eventually(lambda: len(one.top()) == 2)
        command = psutil.Process(one.top()[1]["pid"])
        os.kill(one.init_pid, signal.SIGSTOP)
        command.kill()
        assert eventually(lambda: command.status() == psutil.STATUS_ZOMBIE)
        one.close()
        with pytest.raises(ContainerError, match="went while"):
            outcome()


def test_it_is_closed_all_the_same(engine, mute):
    pid = mute.init_pid
    mute.close()
    assert not os.path.exists(f"/proc/{pid}")
