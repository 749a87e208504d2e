"""Network namespaces and a forwarder to test with: each in a forked child that cannot outlive its test."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_capsule._linux.syscalls import setns
from pytest_capsule.network.forwarder import serve

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
DEADLINE = 60.0
libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


def become_root_of_a_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def reap(pid: int, seconds: float = DEADLINE) -> int:
    """The exit status of a child, which is killed if it does not end in time."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)


def in_child(function: Callable[[], Any]) -> Any:
    """What ``function`` gives when a forked child runs it; its exception as an AssertionError."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = (True, function())
        except BaseException:
            answer = (False, traceback.format_exc())
        with contextlib.suppress(BaseException), os.fdopen(write, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        ready = select.select([file], [], [], DEADLINE)[0]
        if not ready:
            os.kill(pid, signal.SIGKILL)
        data = file.read()
    status = reap(pid)
    assert data, f"the child gave nothing and ended with {status}"
    good, value = pickle.loads(data)
    assert good, value
    return value


@pytest.fixture(params=["root", "user namespace"] if os.geteuid() == 0 else ["user namespace"])
def isolated(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs a function in a network namespace of its own: as the host's root, and as root of a user namespace."""

    def run(function: Callable[[], Any]) -> Any:
        def prepared() -> Any:
            if request.param != "root":
                become_root_of_a_user_namespace()
            unshare(CLONE_NEWNET)
            return function()

        return in_child(prepared)

    return run


class Namespaces:
    """Further network namespaces of the (single-threaded) process that asks, as descriptors."""

    def __init__(self) -> None:
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def new(self) -> int:
        unshare(CLONE_NEWNET)
        fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        setns(self.home, CLONE_NEWNET)
        return fd

    @contextlib.contextmanager
    def standing_in(self, fd: int) -> Iterator[None]:
        setns(fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(self.home, CLONE_NEWNET)


@pytest.fixture
def namespaces() -> type[Namespaces]:
    return Namespaces


@pytest.fixture
def control(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """The control socket of a running forwarder. That the end of the socket ends the forwarder, every test checks.

    Parametrized indirectly: how many files the forwarder may have open.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            if hasattr(request, "param"):
                resource.setrlimit(resource.RLIMIT_NOFILE, (request.param, request.param))
            serve(theirs)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    theirs.close()
    ours.settimeout(DEADLINE)
    with ours:
        yield ours
    assert reap(pid) == 0
