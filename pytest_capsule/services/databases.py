"""Databases and caches, in the conventions of their official images."""

from __future__ import annotations

from typing import Any

from pytest_capsule import wait
from pytest_capsule.services import packaged as packages
from pytest_capsule.services.readiness import Answers
from pytest_capsule.services.service import Service

_TIMEOUT = 120.0
# A test's data need not survive a power cut, and small log files are copied up faster from a committed image.
_POSTGRES_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_POSTGRES_LOG_FILES = "--wal-segsize=1"
_POSTGRES_DATA = "/var/tmp/postgresql"  # not on the image's VOLUME, whose content no commit keeps


def postgres(
    tag: str = "17",
    *,
    user: str = "postgres",
    password: str = "postgres",
    database: str = "postgres",
    packaged: Any = None,
    from_host: bool = False,
) -> Service:
    """PostgreSQL, the official image ``postgres``; from packages it runs as the user ``postgres`` of the image."""
    settings = [word for setting in _POSTGRES_SETTINGS for word in ("-c", setting)]
    server = ["postgres", *settings]
    official = {"image": f"postgres:{tag}", "command": server}
    keywords = packages.origin(
        official, packages.POSTGRES, *server, packaged=packaged, from_host=from_host, user="postgres"
    )
    ready = wait.command(["pg_isready", "--quiet", "--host=127.0.0.1", f"--username={user}", f"--dbname={database}"])
    return Service(
        keywords={
            **keywords,
            "env": {
                "POSTGRES_USER": user,
                "POSTGRES_PASSWORD": password,
                "POSTGRES_DB": database,
                "POSTGRES_INITDB_ARGS": _POSTGRES_LOG_FILES,
                "PGDATA": _POSTGRES_DATA,
            },
            "wait": wait.all_of(wait.port(5432), ready),
            "timeout": _TIMEOUT,
        },
        port=5432,
        scheme="postgresql",
        user=user,
        password=password,
        database=database,
    )


def mysql(
    tag: str = "8.4", *, user: str = "test", password: str = "test", database: str = "test", root_password: str = "root"
) -> Service:
    """MySQL, the official image ``mysql``."""
    return _mysql(_official_mysql(f"mysql:{tag}"), "MYSQL", user, password, database, root_password)


def mariadb(
    tag: str = "11",
    *,
    user: str = "test",
    password: str = "test",
    database: str = "test",
    root_password: str = "root",
    packaged: Any = None,
    from_host: bool = False,
) -> Service:
    """MariaDB, the official image ``mariadb``; it speaks MySQL's protocol."""
    official = _official_mysql(f"mariadb:{tag}")
    keywords = packages.origin(official, packages.MYSQL, "mysql", packaged=packaged, from_host=from_host)
    return _mysql(keywords, "MARIADB", user, password, database, root_password)


def _official_mysql(image: str) -> dict[str, Any]:
    # Not on the image's VOLUME, whose content no commit keeps.
    return {"image": image, "command": ["--datadir=/var/lib/mysql-data"]}


def _mysql(
    keywords: dict[str, Any], prefix: str, user: str, password: str, database: str, root_password: str
) -> Service:
    return Service(
        keywords={
            **keywords,
            "env": {
                f"{prefix}_USER": user,
                f"{prefix}_PASSWORD": password,
                f"{prefix}_DATABASE": database,
                f"{prefix}_ROOT_PASSWORD": root_password,
            },
            "wait": Answers("MySQL", 3306),  # it greets; while the image is initialised it does so on no port
            "timeout": _TIMEOUT,
        },
        port=3306,
        scheme="mysql",
        user=user,
        password=password,
        database=database,
    )


def redis(tag: str = "7", *, packaged: Any = None, from_host: bool = False) -> Service:
    """Redis, the official image ``redis``, with database 0 and no password."""
    # Not on the image's VOLUME, whose content no commit keeps.
    options = ["--dir", "/tmp", "--save", "3600", "1"]
    official = {"image": f"redis:{tag}", "command": ["redis-server", *options]}
    keywords = packages.origin(official, packages.REDIS, "redis", *options, packaged=packaged, from_host=from_host)
    ready = Answers("Redis", 6379, b"PING\r\n", b"+PONG")
    return Service({**keywords, "wait": ready, "timeout": _TIMEOUT}, port=6379, scheme="redis", path="/0")


def mongodb(tag: str = "7", *, user: str = "test", password: str = "test") -> Service:
    """MongoDB, the official image ``mongo``; the user is an administrator."""
    env = {"MONGO_INITDB_ROOT_USERNAME": user, "MONGO_INITDB_ROOT_PASSWORD": password}
    # Not on the image's VOLUME, whose content no commit keeps.
    start = "install -d -o mongodb /var/tmp/mongodb; exec docker-entrypoint.sh mongod --dbpath=/var/tmp/mongodb"
    return Service(
        keywords={
            "image": f"mongo:{tag}",
            "command": ["bash", "-euc", start],
            "env": env,
            # The server that makes the user, if there is none yet, listens on 127.0.0.1 only.
            "wait": wait.all_of(wait.log(r"Listening on.*0\.0\.0\.0"), wait.port(27017)),
            "timeout": _TIMEOUT,
        },
        port=27017,
        scheme="mongodb",
        user=user,
        password=password,
        path="/",
    )


def elasticsearch(tag: str = "2") -> Service:
    """What speaks Elasticsearch's interface, with no password: OpenSearch, ``opensearchproject/opensearch``."""
    env = {
        "discovery.type": "single-node",
        "DISABLE_SECURITY_PLUGIN": "true",
        "DISABLE_INSTALL_DEMO_CONFIG": "true",  # which wants a password, from 2.12 on
        "OPENSEARCH_JAVA_OPTS": "-Xms512m -Xmx512m",
    }
    return Service(
        keywords={
            "image": f"opensearchproject/opensearch:{tag}",
            "env": env,
            "wait": wait.http("/_cluster/health", port=9200),
            "timeout": _TIMEOUT,
        },
        port=9200,
        scheme="http",
    )
