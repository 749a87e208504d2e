"""``python -m benchmarks.databases``: what a test pays for a PostgreSQL that nobody has touched.

Per test, interleaved, the same image of Debian with its PostgreSQL: a fresh container of what was prepared once; one
server whose tables are emptied; a new server that is migrated each time; and, as testcontainers does it, a container of
Docker's that is started, waited for, migrated and removed. And Redis, prepared once.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import redis

from pytest_capsule import Engine, services
from pytest_capsule.services import RunningService, Service

from .__main__ import ROOTFS, scratch_folder
from .context import BASE
from .subjects import Absent, Place, dockerd, run_docker

_TABLES = 20
_IMAGE = "benchmark-postgres"
_DOCKERFILE = f"""\
FROM {BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends postgresql redis-server && rm -rf /var/lib/apt/lists/*
"""
_PATIENCE = 60  # seconds until Docker's container must answer


def migrate(url: str) -> None:
    """A schema of twenty tables with a row in each."""
    with psycopg.connect(url) as connection:
        for number in range(_TABLES):
            connection.execute(f"CREATE TABLE t{number} (id serial PRIMARY KEY, text text)")
        _seed(connection)


def _seed(connection: psycopg.Connection) -> None:
    for number in range(_TABLES):
        connection.execute(f"INSERT INTO t{number} (text) VALUES ('one')")


def query(url: str) -> None:
    """What a test does: write and read."""
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO t0 (text) VALUES ('two')")
        if connection.execute("SELECT count(*) FROM t0").fetchone() != (2,):
            raise SystemExit("the database was not fresh")


def fill(cache: RunningService) -> None:
    """A thousand keys."""
    with redis.Redis.from_url(cache.url) as client:
        client.mset({f"key{number}": number for number in range(1000)})


@contextlib.contextmanager
def subjects(engine: Engine, place: Place) -> Iterator[dict[str, Callable[[], None]]]:
    """What is measured, by name."""
    image = engine.image(_IMAGE)
    postgres = services.postgres(packaged=image)
    prepared = postgres.prepared(engine, lambda database: migrate(database.url))
    cache = services.redis(packaged=image).prepared(engine, fill)

    def fresh_redis() -> None:
        with cache.start(engine) as running, redis.Redis.from_url(running.url) as client:
            client.get("key1")

    with prepared.start(engine) as kept:
        yield {
            "fresh container of what was prepared once": lambda: _fresh(engine, prepared),
            "one server, its tables emptied": lambda: _emptied(kept.url),
            "new server, migrated each time": lambda: _migrated(engine, postgres),
            "fresh Redis of what was prepared once": fresh_redis,
        }


def _fresh(engine: Engine, prepared: Service) -> None:
    with prepared.start(engine) as database:
        query(database.url)


def _emptied(url: str) -> None:
    query(url)
    with psycopg.connect(url) as connection:
        connection.execute(f"TRUNCATE {', '.join(f't{number}' for number in range(_TABLES))} RESTART IDENTITY")
        _seed(connection)


def _migrated(engine: Engine, postgres: Service) -> None:
    with postgres.start(engine) as database:
        migrate(database.url)
        query(database.url)


@contextlib.contextmanager
def docker_subject(engine: Engine, place: Place) -> Iterator[Callable[[], None]]:
    """The same server in a container of Docker's, on the host's network: the daemon here makes no bridge."""
    client = shutil.which("docker")
    if client is None:
        raise Absent("docker: not installed")
    archive = place.scratch / "image.tar"
    engine.save(_IMAGE, archive)
    keywords = services.postgres(packaged=_IMAGE).keywords
    environment = [word for name, value in keywords["env"].items() for word in ("--env", f"{name}={value}")]
    with dockerd(place, place.room("docker-postgres")) as (daemon, _):
        run_docker(daemon, client, "load", "--quiet", "--input", str(archive))
        options = ("run", "--detach", "--network", "host", "--user", "postgres", *environment, _IMAGE)

        def started_migrated_removed() -> None:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = (*keywords["command"], "-c", f"port={port}")
            container = run_docker(daemon, client, *options, *command).strip()
            try:
                url = f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres"
                _migrate_when_ready(url)
                query(url)
            finally:
                run_docker(daemon, client, "rm", "--force", container)

        yield started_migrated_removed


def _migrate_when_ready(url: str) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            migrate(url)
            return
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def main() -> None:
    """Measure round by round, so that all meet the same machine, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.databases")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(None))
        rootfs = Path(ROOTFS)
        place = Place(rootfs, rootfs.with_name(f"{rootfs.name}.tar"), {}, scratch)
        engine = stack.enter_context(Engine())
        engine.tag(f"rootfs:{place.tar}", BASE)
        (scratch / "Dockerfile").write_text(_DOCKERFILE)
        engine.build(scratch, tag=_IMAGE)
        measured = stack.enter_context(subjects(engine, place))
        absent = ""
        try:
            measured["container of Docker's, migrated each time"] = stack.enter_context(docker_subject(engine, place))
        except Absent as reason:
            absent = f"not measured: {reason}"
        taken: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(rounds):
            for name, work in measured.items():
                started = time.perf_counter()
                work()
                taken[name].append((time.perf_counter() - started) * 1000)
    for name, times in taken.items():
        print(f"{name:44} {statistics.median(times):8.1f} ms")
    if absent:
        print(absent)


if __name__ == "__main__":
    main()
