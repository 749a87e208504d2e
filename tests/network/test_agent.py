"""The relay to an SSH agent, before somebody who wants to use up the process that it is in."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from pytest_capsule.network import agent
from pytest_capsule.network.agent import CONNECTIONS, AgentRelay

LIST = b"\0\0\0\1\x0b"
KEYS = b"\0\0\0\5\x0c\0\0\0\0"
# So many connections as the kernel lets one make, each held; then as many lines as were made.
HOLD = """
import resource, socket, sys
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held = []
for _ in range(3000):
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(sys.argv[1])
    except BlockingIOError:  # the listener's queue is full
        pass
    held.append(sock)
print(len(held), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def keys(tmp_path):
    """The path of an agent that has no keys."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "keys"))
    listener.listen(1000)

    def answer(client):
        with client:
            while client.recv(100):
                client.sendall(KEYS)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    yield str(tmp_path / "keys")
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "relay")


@pytest.fixture
def relay(keys, path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with AgentRelay(listener, keys):
        yield


def relays():
    return sum(thread.name == "capsule-ssh-agent" for thread in threading.enumerate())


def ask(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(path)
        sock.sendall(LIST)
        return sock.recv(100)


def test_connections_without_end_wait_in_the_listener_s_queue(relay, path, eventually):
    descriptors = len(os.listdir("/proc/self/fd"))
    hold = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hostile:
        assert hostile.stdout.readline() == b"3000\n"
        assert eventually(lambda: relays() == CONNECTIONS + 1)
        # As many again are at most the other ends of these, in the agent of this test.
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 3 * CONNECTIONS + 20
        hostile.stdin.close()
    assert ask(path) == KEYS
    assert eventually(lambda: relays() == 1)


def test_it_is_closed_while_all_of_its_places_are_taken(keys, path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    hold = [sys.executable, "-c", HOLD, path]
    with AgentRelay(listener, keys), subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hostile:
        assert hostile.stdout.readline() == b"3000\n"
        hostile.stdin.close()
    assert relays() == 0


def test_it_goes_on_when_there_were_too_many_files_open(keys, path, monkeypatch):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    monkeypatch.setattr(agent, "_PAUSE", 0.01)
    refusing = Refusing(listener)
    with AgentRelay(refusing, keys):
        assert ask(path) == KEYS
    assert refusing.refusals == 0


class Refusing:
    """A listener that has no descriptor for the first three who come."""

    def __init__(self, listener):
        self.listener = listener
        self.refusals = 3

    def accept(self):
        if self.refusals:
            self.refusals -= 1
            raise OSError(24, "Too many open files")
        return self.listener.accept()

    def __getattr__(self, name):
        return getattr(self.listener, name)
