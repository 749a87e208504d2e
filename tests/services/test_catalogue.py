"""The catalogue's definitions: what is asked of each image. MySQL, Kafka, MinIO, MongoDB and Elasticsearch have no more
than this: no Debian package of them is there to be started."""

from __future__ import annotations

import re

import pytest

from pytest_capsule import ContainerSpec, UsageError, services, wait


class Stub:
    """A container that is only asked where its ports are."""

    name = "stub"

    def address(self, port):
        return "127.0.0.1", port + 10000


@pytest.mark.parametrize(
    ("service", "image", "url", "env"),
    [
        (
            services.postgres("16", user="me", password="a/b", database="shop"),
            "postgres:16",
            "postgresql://me:a%2Fb@127.0.0.1:15432/shop",
            {"POSTGRES_USER": "me", "POSTGRES_PASSWORD": "a/b", "POSTGRES_DB": "shop"},
        ),
        (
            services.mysql(),
            "mysql:8.4",
            "mysql://test:test@127.0.0.1:13306/test",
            {"MYSQL_USER": "test", "MYSQL_ROOT_PASSWORD": "root"},
        ),
        (services.mariadb(), "mariadb:11", "mysql://test:test@127.0.0.1:13306/test", {"MARIADB_DATABASE": "test"}),
        (services.redis("7"), "redis:7", "redis://127.0.0.1:16379/0", {}),
        (
            services.mongodb(),
            "mongo:7",
            "mongodb://test:test@127.0.0.1:37017/",
            {"MONGO_INITDB_ROOT_USERNAME": "test"},
        ),
        (
            services.elasticsearch(),
            "opensearchproject/opensearch:2",
            "http://127.0.0.1:19200",
            {"discovery.type": "single-node", "DISABLE_INSTALL_DEMO_CONFIG": "true"},
        ),
        (
            services.rabbitmq(vhost="shop"),
            "rabbitmq:4",
            "amqp://guest:guest@127.0.0.1:15672/shop",
            {"RABBITMQ_DEFAULT_VHOST": "shop"},
        ),
        (services.kafka(), "redpandadata/redpanda:v24.2.7", "kafka://127.0.0.1:19092", {}),
        (services.minio(), "minio/minio:latest", "http://127.0.0.1:19000", {"MINIO_ROOT_USER": "minioadmin"}),
        (services.nginx(), "nginx:1.27", "http://127.0.0.1:10080", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" in value and "/" not in value else "",
)
def test_what_is_asked_for(service, image, url, env):
    spec = ContainerSpec.of(**service.keywords)
    assert spec.image == image
    assert env.items() <= spec.env.items()
    assert isinstance(spec.wait, wait.Strategy)
    running = service.at(Stub())
    assert running.url == running.dsn == url
    assert (running.host, running.port) == ("127.0.0.1", service.port + 10000)
    assert running.inside_url == url.replace(f"127.0.0.1:{running.port}", f"stub:{service.port}")


@pytest.mark.parametrize(
    ("service", "volume"),
    [
        (services.postgres(), "/var/lib/postgresql"),
        (services.mysql(), "/var/lib/mysql"),
        (services.mariadb(), "/var/lib/mysql"),
        (services.redis(), "/data"),
        (services.mongodb(), "/data"),
        (services.rabbitmq(), "/var/lib/rabbitmq"),
        (services.minio(), "/data"),
    ],
    ids=lambda value: value.keywords["image"] if isinstance(value, services.Service) else "",
)
def test_data_lies_where_a_commit_keeps_it(service, volume):
    """Each of these images declares ``volume`` as a VOLUME, and keeps its data there unless it is told otherwise."""
    told = [*service.keywords.get("command", []), *service.keywords.get("env", {}).values()]
    assert any(re.search("/(var/)?tmp|/var/lib/mysql-data", word) for word in told)
    assert not any(re.search(f"{volume}(/|$)", word) for word in told)


def test_other_keywords():
    service = services.postgres().with_keywords(name="db", env={"TZ": "UTC"}, memory="512m")
    assert (service.keywords["name"], service.keywords["memory"]) == ("db", "512m")
    assert {"TZ", "POSTGRES_DB"} <= set(service.keywords["env"])


def test_one_source_only():
    with pytest.raises(UsageError, match="not both"):
        services.redis(from_host=True, packaged="mine")
