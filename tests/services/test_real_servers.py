"""Real servers, from Debian's packages: in an image that a Dockerfile builds, and this machine's own."""

from __future__ import annotations

import sys

import clients
import pytest

from pytest_capsule import services

PACKAGED = {
    "postgres": (services.postgres, "postgresql", clients.ask_postgres),
    "mariadb": (services.mariadb, "mariadb-server", clients.ask_mysql),
    "redis": (services.redis, "redis-server", clients.ask_redis),
    "rabbitmq": (services.rabbitmq, "rabbitmq-server", clients.ask_rabbitmq),
    "nginx": (services.nginx, "nginx-light", clients.ask_nginx),
}
INSTALLED = {
    "postgres": (services.postgres, "usr/lib/postgresql/*/bin/postgres", clients.ask_postgres),
    "mariadb": (services.mariadb, "usr/sbin/mariadbd", clients.ask_mysql),
    "redis": (services.redis, "usr/bin/redis-server", clients.ask_redis),
    "nginx": (services.nginx, "usr/sbin/nginx", clients.ask_nginx),
}


@pytest.mark.identities("root", "range")
@pytest.mark.parametrize("name", PACKAGED)
def test_from_an_image_that_a_dockerfile_builds(engine, debian_with, identity, name):
    if identity != "root" and name not in ("nginx", "redis"):
        pytest.skip("the large ones are built once, as root")
    define, packages, ask = PACKAGED[name]
    service = define(packaged=debian_with(packages))
    with service.start(engine) as one, service.start(engine) as other:
        assert ask(one) == "kept"
        assert ask(other) == "kept"  # which would fail if it were the same
        assert one.port != other.port
        assert str(one.port) in one.url


@pytest.mark.parametrize("name", INSTALLED)
def test_from_this_machine(engine, installed, identity, name):
    define, path, ask = INSTALLED[name]
    installed(path)
    if name == "postgres" and identity == "single":
        pytest.skip("PostgreSQL refuses to run as root, and with a single id there is nobody else")
    with define(from_host=True).start(engine) as running:
        assert ask(running) == "kept"


@pytest.mark.identities("root")
def test_rabbitmq_lets_guest_in_from_another_container(engine, debian_with):
    """Its packages let that user in from the same machine only, the official image from anywhere."""
    log_in = "import pika, sys; pika.BlockingConnection(pika.URLParameters(sys.argv[1])).close()"
    with engine.network() as network:
        service = services.rabbitmq(packaged=debian_with("rabbitmq-server")).with_keywords(name="mq", network=network)
        with service.start(engine) as running, engine.run("capsule/host", network=network, command=[]) as app:
            app.exec([sys.executable, "-c", log_in, running.inside_url], check=True)


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_a_password_of_any_letters(engine, installed, identity, name):
    define, path, ask = INSTALLED[name]
    installed(path)
    if name == "postgres" and identity == "single":
        pytest.skip("PostgreSQL refuses to run as root, and with a single id there is nobody else")
    with define(from_host=True, password="p'a$s\"w`d\\x@/#").start(engine) as running:
        assert ask(running) == "kept"


@pytest.mark.parametrize("name", ["mariadb", "nginx", "redis"])
def test_each_kind_of_address(engine, installed, name):
    define, path, _ = INSTALLED[name]
    installed(path)
    with (
        engine.network() as network,
        define(from_host=True).with_keywords(network=network).start(engine) as running,
        engine.run("capsule/host", network=network, command=[]) as app,
    ):
        for address in filter(None, (running.container.ip, running.container.ip6)):
            script = f"import socket; socket.create_connection(({address!r}, {running.service.port}), 20).close()"
            app.exec(["python3", "-c", script], check=True)


def test_from_another_container(engine, installed):
    installed("usr/bin/redis-server")
    script = (
        "import socket, sys\n"
        "with socket.create_connection((sys.argv[1], 6379), 20) as sock:\n"
        "    sock.sendall(b'PING\\r\\n')\n"
        "    print(sock.recv(5).decode())\n"
    )
    with engine.network() as network:
        cache = services.redis(from_host=True).with_keywords(name="cache", network=network)
        with cache.start(engine) as running, engine.run("capsule/host", network=network, command=[]) as app:
            assert running.inside_url == "redis://cache:6379/0"
            assert app.exec(["python3", "-c", script, "cache"]).stdout == "+PONG\n"
