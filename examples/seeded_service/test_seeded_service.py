"""Seed a service once, and give each test a fresh container of the seeded image.

The seeding may take as long as it likes: ``commit`` keeps what it wrote as an image, and a container of that starts as
fast as any other.
"""

import pytest

SEED = """
import sqlite3
database = sqlite3.connect("/srv/shop.db")
database.execute("create table orders (id integer primary key, item text)")
database.executemany("insert into orders (item) values (?)", [(f"item {n}",) for n in range(1000)])
database.commit()
"""
COUNT = "import sqlite3; print(sqlite3.connect('/srv/shop.db').execute('select count(*) from orders').fetchone()[0])"
DELETE = "import sqlite3; db = sqlite3.connect('/srv/shop.db'); db.execute('delete from orders'); db.commit()"


@pytest.fixture(scope="session")
def seeded(capsule):
    """The image with the seeded database: made once a session."""
    with capsule.run("capsule/host", command=[]) as container:
        container.exec(["python3", "-c", SEED], check=True)
        return container.commit(change=["WORKDIR /srv"])


@pytest.fixture
def shop(capsule, seeded):
    """A container of its own for each test."""
    with capsule.run(seeded, command=[]) as container:
        yield container


def count(shop):
    return int(shop.exec(["python3", "-c", COUNT], check=True).stdout)


def test_a_test_may_destroy_everything(shop):
    shop.exec(["python3", "-c", DELETE], check=True)
    assert count(shop) == 0


def test_and_the_next_has_the_seeded_database(shop):
    assert count(shop) == 1000
