"""What does a client do when its cache hangs, or is gone? Redis of this machine, paused and cut off."""

import os
import shutil

import pytest
import redis

from pytest_capsule import service_fixture, services

pytestmark = pytest.mark.skipif(
    not shutil.which("redis-server") and not os.environ.get("CI"),
    reason="Redis is not installed here: apt-get install redis-server",
)

cache = service_fixture(services.redis(from_host=True))

CLIENT = """
import socket, sys
with socket.create_connection(("cache", 6379), timeout=0.3) as sock:
    sock.sendall(b"PING\\r\\n")
    print(sock.recv(100).decode().strip())
"""


def test_a_cache_that_hangs(cache):
    with redis.Redis.from_url(cache.url, socket_timeout=0.3) as client:
        client.set("greeting", "hello")
        cache.container.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("greeting")
        cache.container.unpause()
        assert client.get("greeting") == b"hello"


def test_a_cache_behind_a_pulled_cable(capsule):
    with capsule.network() as network:
        service = services.redis(from_host=True).with_keywords(name="cache", network=network)
        with service.start(capsule) as cache, capsule.run("capsule/host", network=network, command=[]) as app:
            assert app.exec(["python3", "-c", CLIENT]).stdout == "+PONG\n"
            network.disconnect(cache.container)
            assert "TimeoutError" in app.exec(["python3", "-c", CLIENT]).stderr
            with redis.Redis.from_url(cache.url) as client:  # the test itself reaches it all the same
                assert client.ping()
