"""``python -m benchmarks.ports``: what a published port costs, beside Docker's and RootlessKit's, and no relay at all.

One server program answers all of them. ``direct`` is the host's loopback with nothing between; ``connect`` a socket
made inside the container and handed out; ``published`` the container's port on the host's loopback; ``docker-proxy``
the program that Docker runs for each port, before the same server on the host; ``rootlesskit`` the way of a port into
rootless Docker and podman (its driver ``builtin``), as an ordinary user with the system's Python.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_capsule import Engine, wait

from .subjects import Absent

Address = tuple[str, int]
Connect = Callable[[], socket.socket]

_PORT = 9000
_ROUND_TRIPS = 2000
_CHUNK = 1 << 18
# The first byte says what is wanted: "e" everything back as it comes, "s" so many bytes as the rest of the line says.
_SERVER = """
import socket, sys, threading
def serve(sock):
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = sock.recv(1)
        if kind == b"e":
            while data := sock.recv(65536):
                sock.sendall(data)
        elif kind == b"s":
            left, block = int(sock.makefile("rb").readline()), bytes(1 << 18)
            while left > 0:
                sock.sendall(block[:left])
                left -= len(block)
with socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def round_trip(connect: Connect) -> float:
    """Microseconds that one byte takes there and back."""
    with connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"e")
        started = time.perf_counter()
        for _ in range(_ROUND_TRIPS):
            sock.sendall(b"x")
            sock.recv(1)
        return (time.perf_counter() - started) / _ROUND_TRIPS * 1e6


def throughput(connect: Connect, size: int) -> float:
    """Megabytes a second that come from the server, measured with ``size`` bytes."""
    with connect() as sock:
        sock.sendall(b"s%d\n" % size)
        started, left = time.perf_counter(), size
        while left > 0:
            left -= len(sock.recv(_CHUNK)) or left
        return size / 1e6 / (time.perf_counter() - started)


def connection(connect: Connect) -> float:
    """Microseconds from the beginning of a connection to its first answer."""
    started = time.perf_counter()
    for _ in range(100):
        with connect() as sock:
            sock.sendall(b"ex")
            sock.recv(1)
    return (time.perf_counter() - started) / 100 * 1e6


@contextlib.contextmanager
def _on_the_host() -> Iterator[Address]:
    process = subprocess.Popen([sys.executable, "-c", _SERVER, "127.0.0.1", "0"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield "127.0.0.1", int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _docker_proxy(server: Address) -> Iterator[Address]:
    program = shutil.which("docker-proxy")
    if program is None:
        raise Absent("docker-proxy is not installed here: apt-get install docker.io")
    port = _free_port()
    words = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", str(port)]
    words += ["-container-ip", server[0], "-container-port", str(server[1])]
    # It says on descriptor 3 how its start went, as dockerd asks it to.
    process = subprocess.Popen(["/bin/sh", "-c", 'exec "$0" "$@" 3>&1', program, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.read(1)
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def _rootlesskit() -> Iterator[Address]:
    program = shutil.which("rootlesskit")
    if program is None:
        raise Absent("rootlesskit is not installed here: apt-get install rootlesskit slirp4netns")
    user = _ordinary_user()
    become: dict[str, Any] = {}
    if user.pw_uid != os.getuid():
        become = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user.pw_uid, user.pw_gid)
        words = [program, "--state-dir", f"{folder}/state", "--net=slirp4netns", "--disable-host-loopback"]
        words += ["--port-driver=builtin", "--publish", f"127.0.0.1:{port}:{_PORT}/tcp"]
        process = subprocess.Popen(
            [*words, "/usr/bin/python3", "-c", _SERVER, "", str(_PORT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": folder, "XDG_RUNTIME_DIR": folder},
            cwd=folder,
            **become,
        )
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise Absent("rootlesskit does not start here")
            yield "127.0.0.1", port
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _ordinary_user() -> pwd.struct_passwd:
    """Who calls; for root somebody who has a range of ids, without which RootlessKit does not start."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    ranges = Path("/etc/subuid").read_text() if Path("/etc/subuid").exists() else ""
    for name in (line.split(":")[0] for line in ranges.splitlines()):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Absent("rootlesskit wants an ordinary user with a range in /etc/subuid, and there is none")


def main() -> None:
    """Measure round by round, so that all meet the same machine, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ports")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=256, help="how much is sent to measure throughput (256)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_on_the_host())
        engine = stack.enter_context(Engine())
        command = ["python3", "-c", _SERVER, "", str(_PORT)]
        container = stack.enter_context(engine.run("capsule/host", command=command, wait=wait.port(_PORT)))
        published = container.address(_PORT)
        subjects: dict[str, Connect] = {
            "direct": lambda: socket.create_connection(server),
            "connect": lambda: container.connect(_PORT),
            "published": lambda: socket.create_connection(published),
        }
        for name, peer in {"docker-proxy": _docker_proxy(server), "rootlesskit": _rootlesskit()}.items():
            try:
                address = stack.enter_context(peer)
            except Absent as reason:
                print(f"not measured: {reason}", file=sys.stderr)
            else:
                subjects[name] = functools.partial(socket.create_connection, address)
        measures: dict[str, Callable[[Connect], float]] = {
            "round trip, us": round_trip,
            "connection, us": connection,
            "throughput, MB/s": lambda connect: throughput(connect, options.megabytes << 20),
        }
        taken: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.rounds):
            for title, measure in measures.items():
                for name, connect in subjects.items():
                    taken.setdefault((name, title), []).append(measure(connect))
    print(f"{'':14}" + "".join(f"{title:>18}" for title in measures))
    for name in subjects:
        print(f"{name:14}" + "".join(f"{statistics.median(taken[name, title]):18.1f}" for title in measures))


if __name__ == "__main__":
    main()
