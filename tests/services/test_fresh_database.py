"""A database for each test, that begins with what was prepared once."""

from __future__ import annotations

import psycopg
import pytest
import redis

from pytest_capsule import services


def create_tables(database):
    with psycopg.connect(database.url) as connection:
        connection.execute("CREATE TABLE account (name text)")
        connection.execute("INSERT INTO account VALUES ('ada')")


@pytest.mark.identities("root", "range")
def test_postgres(engine, installed):
    installed("usr/lib/postgresql/*/bin/postgres")
    service = services.postgres(from_host=True, database="shop").prepared(engine, create_tables)
    for _ in range(2):
        with service.start(engine) as database, psycopg.connect(database.url) as connection:
            assert connection.execute("SELECT name FROM account").fetchall() == [("ada",)]
            connection.execute("DELETE FROM account")


def test_redis(engine, installed):
    installed("usr/bin/redis-server")

    def fill(cache):
        with redis.Redis.from_url(cache.url) as client:
            client.set("greeting", "hello")

    service = services.redis(from_host=True).prepared(engine, fill)
    for _ in range(2):
        with service.start(engine) as cache, redis.Redis.from_url(cache.url) as client:
            assert client.get("greeting") == b"hello"
            client.flushall()


def test_as_a_fixture(pytester, installed):
    installed("usr/bin/redis-server")
    pytester.makeconftest(
        """
        import redis
        from pytest_capsule import service_fixture, services

        def fill(cache):
            with redis.Redis.from_url(cache.url) as client:
                client.set("started", client.incr("runs"))

        cache = service_fixture(services.redis(from_host=True), prepare=fill)
        shared = service_fixture(services.redis(from_host=True), scope="module", timeout=90)
        """
    )
    pytester.makepyfile(
        """
        import pytest
        import redis

        @pytest.mark.parametrize("number", range(3))
        def test_its_own(cache, shared, number):
            with redis.Redis.from_url(cache.url) as client, redis.Redis.from_url(shared.url) as other:
                assert client.mget("started", "runs") == [b"1", b"1"]
                client.flushall()
                assert other.incr("seen") == number + 1
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)


def test_what_is_wrong_names_the_factory(pytester):
    pytester.makeconftest(
        """
        from pytest_capsule import service_fixture, services

        cache = service_fixture(services.redis(from_host=True), volume=["x:/y"])
        """
    )
    result = pytester.runpytest()
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*conftest.py:3: container has no keyword volume=*"])
