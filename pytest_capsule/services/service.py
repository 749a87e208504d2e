"""A service of the catalogue: which image, how it is started, when it is ready, and how a client reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_capsule.network.ports import in_url
from pytest_capsule.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_capsule.engine import Engine
    from pytest_capsule.runtime.container import Container

Prepare = Callable[["RunningService"], object]


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is ready: its ``container``, and what a client of it needs."""

    service: Service
    container: Container

    @property
    def host(self) -> str:
        """The address at which the test reaches it."""
        return self.container.address(self.service.port)[0]

    @property
    def port(self) -> int:
        """The port there."""
        return self.container.address(self.service.port)[1]

    @property
    def user(self) -> str:
        """Who a client says that it is; empty where the service asks nobody."""
        return self.service.user

    @property
    def password(self) -> str:
        """That user's password."""
        return self.service.password

    @property
    def database(self) -> str:
        """The database (of RabbitMQ: the virtual host) that is there; empty where there is no such thing."""
        return self.service.database

    @property
    def url(self) -> str:
        """The whole of it as a URL, as the usual client libraries take it."""
        return self._url(self.host, self.port)

    @property
    def dsn(self) -> str:
        """The same, under the name that database drivers have for it."""
        return self.url

    @property
    def inside_url(self) -> str:
        """The URL for another container on the same network: the container's name, and the port as it is inside."""
        return self._url(self.container.name, self.service.port)

    def _url(self, host: str, port: int) -> str:
        who = ""
        if self.service.scheme != "http" and (self.user or self.password):
            who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"
        path = f"/{quote(self.database, safe='')}" if self.database else self.service.path
        return f"{self.service.scheme}://{who}{in_url(host)}:{port}{path}"

    def keep(self) -> Service:
        """End it in order and commit it: the service with what is in it now for a beginning."""
        self.container.stop()
        image = self.container.commit(end=True)
        keywords = {name: value for name, value in self.service.keywords.items() if name not in ("build", "target")}
        return replace(self.service, keywords={**keywords, "image": image})

    def close(self) -> None:
        """End it."""
        self.container.close()

    def __enter__(self) -> RunningService:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Service:
    """What one function of the catalogue gives: ``keywords`` of a container, and how a client reaches the service.

    Give it to ``service_fixture`` in a ``conftest.py``; call ``start`` where there is an engine; or give its
    ``keywords`` to a marker and the marker's container to ``at``.
    """

    keywords: Mapping[str, Any]
    port: int
    scheme: str
    user: str = ""
    password: str = ""
    database: str = ""
    path: str = ""

    def with_keywords(self, **keywords: Any) -> Service:
        """The same with other keywords of its container; ``env`` is added to what is there."""
        env = {**self.keywords.get("env", {}), **keywords.pop("env", {})}
        return replace(self, keywords={**self.keywords, **keywords, "env": env})

    def at(self, container: Container) -> RunningService:
        """This service in a container that runs it."""
        return RunningService(self, container)

    def start(self, engine: Engine) -> RunningService:
        """Start it and wait until it is ready."""
        return self.at(engine.run(**self.keywords))

    def prepared(self, engine: Engine, prepare: Prepare) -> Service:
        """Start it once, let ``prepare`` fill it, and keep that: a service whose containers all begin so.

        Each of them has the data to itself: what one test changes no other sees.
        """
        with self.at(engine.start(ContainerSpec.of(**self.keywords), to_keep=True)) as running:
            prepare(running)
            return running.keep()
