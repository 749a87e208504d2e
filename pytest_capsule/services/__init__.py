"""Services that tests need, ready to be started: databases, caches, brokers, web servers.

Each function gives a ``Service``: an official image with the settings that its own documentation has for a start, how
to see that it is ready, and how a client reaches it. ``from_host=True`` runs the server that is installed on this
machine inside ``capsule/host`` instead, and ``packaged=`` one from a distribution's packages in an image of yours.
"""

from pytest_capsule.services.brokers import kafka, rabbitmq
from pytest_capsule.services.databases import elasticsearch, mariadb, mongodb, mysql, postgres, redis
from pytest_capsule.services.service import RunningService, Service
from pytest_capsule.services.web import minio, nginx

__all__ = [
    "RunningService",
    "Service",
    "elasticsearch",
    "kafka",
    "mariadb",
    "minio",
    "mongodb",
    "mysql",
    "nginx",
    "postgres",
    "rabbitmq",
    "redis",
]
