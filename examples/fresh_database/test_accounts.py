"""A database for every test: migrated once, committed, and started anew for each test with its own copy.

It runs the PostgreSQL that is installed on this machine; ``services.postgres("17")`` is the official image instead.
"""

import glob
import os

import psycopg
import pytest

from pytest_capsule import service_fixture, services

pytestmark = pytest.mark.skipif(
    not glob.glob("/usr/lib/postgresql/*/bin/postgres") and not os.environ.get("CI"),
    reason="PostgreSQL is not installed here: apt-get install postgresql",
)


def migrate(database):
    with psycopg.connect(database.url) as connection:
        connection.execute("CREATE TABLE account (name text PRIMARY KEY, balance integer)")
        connection.execute("INSERT INTO account VALUES ('ada', 100), ('grace', 50)")


database = service_fixture(services.postgres(from_host=True), prepare=migrate)


@pytest.fixture
def connection(database):
    with psycopg.connect(database.url) as connection:
        yield connection


def test_a_transfer(connection):
    connection.execute("UPDATE account SET balance = balance - 30 WHERE name = 'ada'")
    connection.execute("UPDATE account SET balance = balance + 30 WHERE name = 'grace'")
    connection.commit()
    assert connection.execute("SELECT sum(balance) FROM account").fetchone() == (150,)


def test_even_the_table_may_go(connection):
    connection.execute("DROP TABLE account")
    connection.commit()


def test_the_next_test_has_all_of_it_again(connection):
    assert connection.execute("SELECT name, balance FROM account ORDER BY name").fetchall() == [
        ("ada", 100),
        ("grace", 50),
    ]
