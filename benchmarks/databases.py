"""``python -m benchmarks.databases``: what a test pays for a database that nobody has touched.

Per test, interleaved: a fresh container of a prepared image; the same server with its tables emptied; and, where a
Docker daemon runs (DOCKER_HOST) and has an image ``postgres``, a container of Docker's: started, migrated, removed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psycopg
import redis

from pytest_capsule import Engine, services
from pytest_capsule.services import RunningService

_TABLES = 20


def migrate(database: RunningService | str) -> None:
    """A schema of twenty tables with a row in each."""
    with psycopg.connect(database if isinstance(database, str) else database.url) as connection:
        for number in range(_TABLES):
            connection.execute(f"CREATE TABLE t{number} (id serial PRIMARY KEY, text text)")
            connection.execute(f"INSERT INTO t{number} (text) VALUES ('one')")


def fill(cache: RunningService) -> None:
    """A thousand keys."""
    with redis.Redis.from_url(cache.url) as client:
        client.mset({f"key{number}": number for number in range(1000)})


def query(database: RunningService) -> None:
    """What a test does: write and read."""
    with psycopg.connect(database.url) as connection:
        connection.execute("INSERT INTO t0 (text) VALUES ('two')")
        if connection.execute("SELECT count(*) FROM t0").fetchone() != (2,):
            raise SystemExit("the database was not fresh")


def subjects(engine: Engine) -> dict[str, Callable[[], None]]:
    """What is measured, by name; all share one engine."""
    postgres = services.postgres(from_host=True)
    prepared = postgres.prepared(engine, migrate)
    kept = prepared.start(engine)
    cache = services.redis(from_host=True).prepared(engine, fill)

    def fresh_postgres() -> None:
        with prepared.start(engine) as database:
            query(database)

    def truncated_postgres() -> None:
        query(kept)
        with psycopg.connect(kept.url) as connection:
            connection.execute("TRUNCATE " + ", ".join(f"t{number}" for number in range(_TABLES)) + " RESTART IDENTITY")
            for number in range(_TABLES):
                connection.execute(f"INSERT INTO t{number} (text) VALUES ('one')")

    def migrated_postgres() -> None:
        with postgres.start(engine) as database:
            migrate(database)
            query(database)

    def fresh_redis() -> None:
        with cache.start(engine) as running, redis.Redis.from_url(running.url) as client:
            client.get("key1")

    found = {
        "PostgreSQL, fresh container of a prepared image": fresh_postgres,
        "PostgreSQL, tables emptied and filled again": truncated_postgres,
        "PostgreSQL, new and migrated each time": migrated_postgres,
        "Redis, fresh container of a prepared image": fresh_redis,
    }
    if _docker_has("postgres"):
        found["PostgreSQL, Docker: started, migrated, removed"] = _docker_postgres
    return found


def _docker_has(image: str) -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None and subprocess.run([docker, "image", "inspect", image], capture_output=True).returncode == 0
    )


def _docker_postgres() -> None:
    """testcontainers' way: run, wait until it answers, migrate, remove."""
    run = ["docker", "run", "-d", "--rm", "-e", "POSTGRES_PASSWORD=postgres", "-p", "127.0.0.1::5432", "postgres"]
    name = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
    try:
        where = subprocess.run(["docker", "port", name, "5432"], check=True, capture_output=True, text=True).stdout
        url = f"postgresql://postgres:postgres@{where.split()[0]}/postgres"
        end = time.monotonic() + 60
        while True:
            try:
                migrate(url)
                return
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


def main() -> None:
    """Measure round by round, so that all meet the same machine, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.databases")
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with Engine() as engine:
        measured = subjects(engine)
        taken: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(rounds):
            for name, work in measured.items():
                started = time.perf_counter()
                work()
                taken[name].append((time.perf_counter() - started) * 1000)
    for name, times in taken.items():
        print(f"{name:50} {statistics.median(times):8.1f} ms")
    if not _docker_has("postgres"):
        print("Docker is not among them: it has no image postgres here, or does not run", file=sys.stderr)


if __name__ == "__main__":
    main()
