"""Web servers and stores that speak HTTP, in the conventions of their official images."""

from __future__ import annotations

from typing import Any

from pytest_capsule import wait
from pytest_capsule.services import packaged as packages
from pytest_capsule.services.service import Service

_TIMEOUT = 120.0


def nginx(tag: str = "1.27", *, packaged: Any = None, from_host: bool = False) -> Service:
    """nginx, the image ``nginx``: give it files at ``/usr/share/nginx/html``, servers at ``/etc/nginx/conf.d``."""
    official = {"image": f"nginx:{tag}"}
    keywords = packages.origin(official, packages.NGINX, "nginx", packaged=packaged, from_host=from_host)
    return Service({**keywords, "wait": wait.port(80), "timeout": _TIMEOUT}, port=80, scheme="http")


def minio(tag: str = "latest", *, user: str = "minioadmin", password: str = "minioadmin") -> Service:
    """MinIO, the image ``minio/minio``, which speaks S3: ``user`` is the access key, ``password`` the secret one.

    Its ``url`` has no credentials in it: S3 clients take them apart from it.
    """
    return Service(
        keywords={
            "image": f"minio/minio:{tag}",
            "command": ["server", "/tmp/minio"],  # not on the image's VOLUME, whose content no commit keeps
            "env": {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password},
            "wait": wait.http("/minio/health/live", port=9000),
            "timeout": _TIMEOUT,
        },
        port=9000,
        scheme="http",
        user=user,
        password=password,
    )
