"""Message brokers, in the conventions of their official images."""

from __future__ import annotations

from typing import Any

from pytest_capsule import wait
from pytest_capsule.services import packaged as packages
from pytest_capsule.services.readiness import Answers
from pytest_capsule.services.service import Service

_TIMEOUT = 180.0


def rabbitmq(
    tag: str = "4",
    *,
    user: str = "guest",
    password: str = "guest",
    vhost: str = "/",
    packaged: Any = None,
    from_host: bool = False,
) -> Service:
    """RabbitMQ, the official image ``rabbitmq``."""
    official = {"image": f"rabbitmq:{tag}"}
    keywords = packages.origin(official, packages.RABBITMQ, "rabbitmq", packaged=packaged, from_host=from_host)
    return Service(
        keywords={
            **keywords,
            "hostname": "rabbitmq",
            "env": {
                "RABBITMQ_DEFAULT_USER": user,
                "RABBITMQ_DEFAULT_PASS": password,
                "RABBITMQ_DEFAULT_VHOST": vhost,
                "RABBITMQ_MNESIA_BASE": "/var/tmp/rabbitmq",  # not on the image's VOLUME, whose content no commit keeps
            },
            "wait": Answers("AMQP", 5672, b"AMQP\x00\x00\x09\x01", b"\x01"),  # the first frame: Connection.Start
            "timeout": _TIMEOUT,
        },
        port=5672,
        scheme="amqp",
        user=user,
        password=password,
        database=vhost,
    )


def kafka(tag: str = "v24.2.7", *, port: int = 9092) -> Service:
    """What speaks Kafka's protocol: Redpanda, the image ``redpandadata/redpanda``.

    A client comes back to the address that the server names, so the port is the same inside and on the host's loopback:
    of two at once each needs its own ``port``, and another container is sent to its own loopback.
    """
    address = f"PLAINTEXT://0.0.0.0:{port}"
    return Service(
        keywords={
            "image": f"redpandadata/redpanda:{tag}",
            "command": [
                *("redpanda", "start", "--mode", "dev-container", "--smp", "1", "--memory", "512M"),
                *("--kafka-addr", address, "--advertise-kafka-addr", f"PLAINTEXT://127.0.0.1:{port}"),
            ],
            "ports": [f"{port}:{port}"],
            "wait": wait.all_of(wait.port(port), wait.log("Successfully started Redpanda")),
            "timeout": _TIMEOUT,
        },
        port=port,
        scheme="kafka",
    )
