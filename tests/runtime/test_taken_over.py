"""An init that hostile code has taken over, as SYS_PTRACE lets it: what it can do to others through its descriptors."""

from __future__ import annotations

import array
import ctypes
import os
import socket

import psutil
import pytest

from pytest_capsule._linux import channel
from pytest_capsule.runtime import init

PIDFD_GETFD = 438
pytestmark = pytest.mark.identities("root")  # without root no test may take a descriptor from an init


def taken(container, number):
    """A socket of the container's init, as whoever has taken it over has it."""
    pidfd = os.pidfd_open(container.init_pid)
    fd = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=fd)


def open_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


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
