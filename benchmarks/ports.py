"""``python -m benchmarks.ports``: what a published port costs, beside Docker's userland proxy and no relay at all.

One server program answers all of them. ``direct`` is the host's loopback with nothing between; ``connect`` a socket
made inside the container and handed out; ``published`` the container's port on the host's loopback; ``docker-proxy``
the program that Docker runs for each port, before the same server on the host.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from pytest_capsule import Engine, wait

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
def _on_the_host() -> Iterator[tuple[str, int]]:
    process = subprocess.Popen([sys.executable, "-c", _SERVER, "127.0.0.1", "0"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield "127.0.0.1", int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def _docker_proxy(server: tuple[str, int]) -> Iterator[tuple[str, int] | None]:
    program = shutil.which("docker-proxy")
    if program is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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


def main() -> None:
    """Measure round by round, so that all meet the same machine, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ports")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=256, help="how much is sent to measure throughput (256)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_on_the_host())
        proxy = stack.enter_context(_docker_proxy(server))
        engine = stack.enter_context(Engine())
        command = ["python3", "-c", _SERVER, "", str(_PORT)]
        container = stack.enter_context(engine.run("capsule/host", command=command, wait=wait.port(_PORT)))
        published = container.address(_PORT)
        subjects: dict[str, Connect] = {
            "direct": lambda: socket.create_connection(server),
            "connect": lambda: container.connect(_PORT),
            "published": lambda: socket.create_connection(published),
        }
        if proxy is not None:
            subjects["docker-proxy"] = lambda: socket.create_connection(proxy)
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
    if proxy is None:
        print("docker-proxy is not installed here: apt-get install docker.io", file=sys.stderr)


if __name__ == "__main__":
    main()
