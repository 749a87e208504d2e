"""Factories of fixtures, for ``conftest.py``: an image, a container or a network of any scope."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_capsule.errors import UsageError
from pytest_capsule.marks import explaining, placed
from pytest_capsule.spec import ContainerSpec

if TYPE_CHECKING:
    import pytest

    from pytest_capsule.networks import Network
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.services.service import RunningService, Service
    from pytest_capsule.session import CapsuleSession
    from pytest_capsule.store.image import Image
    from pytest_capsule.volumes import Volumes

Scope = Literal["session", "package", "module", "class", "function"]
_ASKED = "_capsule_asked"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a factory: ``where`` (``file:line``), the folder of that file, whether in the body of a class."""

    where: str
    folder: Path
    in_class: bool

    @classmethod
    def at(cls, depth: int) -> Call:
        """The one that many frames above the caller of this."""
        frame = sys._getframe(depth + 1)
        path = Path(frame.f_code.co_filename)
        return cls(f"{path}:{frame.f_lineno}", path.parent, in_class="__qualname__" in frame.f_locals)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a factory was asked for, and by which call."""

    spec: ContainerSpec
    call: Call

    @property
    def where(self) -> str:
        """The call's ``file:line``, for errors."""
        return self.call.where

    def folders(self, config: pytest.Config) -> list[Path]:
        """Where relative paths start: the factory's folder, then pytest's rootdir."""
        return [self.call.folder, config.rootpath]


def image_fixture(
    image: str | None = None,
    *,
    build: Any = None,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    scope: Scope = "session",
) -> Callable[..., Image]:
    """A fixture that gives an ``Image``: a reference, or what ``build`` builds (as in the marker)."""
    asked = _asked(image, build=build, target=target, build_args=build_args or {})

    def fixture(request: pytest.FixtureRequest, _capsule_session: CapsuleSession) -> Image:
        with explaining(asked.where, request.config):
            return _capsule_session.image(asked.spec, asked.folders(request.config))

    return _made(fixture, scope, asked.call, asked)


def container_fixture(
    image: Any = None, *, scope: Scope | None = None, shared: bool = False, **keywords: Any
) -> Callable[..., Container]:
    """A fixture that gives a running ``Container``; the keywords are those of the marker.

    ``scope`` is "function" if not given. With ``shared`` it is "session", and all workers of pytest-xdist get the same
    container, which lives as long as the run.
    """
    asked = _asked(*([] if image is None else [image]), **keywords)
    if shared and scope not in (None, "session"):
        error = UsageError(f"container_fixture(shared=True, scope={scope!r}): what is shared has the scope session")
        raise placed(error, asked.where)

    def fixture(request: pytest.FixtureRequest, _capsule_session: CapsuleSession) -> Iterator[Container]:
        with _capsule_session.engine.volume_scope() as volumes:
            folders = asked.folders(request.config)
            with explaining(asked.where, request.config):
                if shared:
                    key = asked.where, request.fixturename
                    container = _capsule_session.share(key, asked.spec, folders, volumes)
                else:
                    container = _capsule_session.start(asked.spec, folders, volumes)
            with container:
                yield container

    return _made(fixture, scope or ("session" if shared else "function"), asked.call, asked)


def service_fixture(
    service: Service,
    *,
    scope: Scope = "function",
    prepare: Callable[[RunningService], object] | None = None,
    **keywords: Any,
) -> Callable[..., RunningService]:
    """A fixture that gives a ``RunningService`` of the catalogue; ``keywords`` change those of its container.

    ``prepare`` is called once a session with the service started for it (to create tables, say); what it leaves is
    committed, and every container of the fixture begins with it, each with a copy of its own.
    """
    service = service.with_keywords(**keywords)
    asked = _asked(**service.keywords)
    prepared: dict[CapsuleSession, Service] = {}

    def start(
        session: CapsuleSession, wanted: Service, config: pytest.Config, volumes: Volumes, *, to_keep: bool = False
    ) -> RunningService:
        spec = ContainerSpec.of(**wanted.keywords)
        return wanted.at(session.start(spec, asked.folders(config), volumes, to_keep=to_keep))

    def fixture(request: pytest.FixtureRequest, _capsule_session: CapsuleSession) -> Iterator[RunningService]:
        with _capsule_session.engine.volume_scope() as volumes:
            with explaining(asked.where, request.config):
                if prepare is not None and _capsule_session not in prepared:
                    with start(_capsule_session, service, request.config, volumes, to_keep=True) as first:
                        prepare(first)
                        prepared[_capsule_session] = first.keep()
                wanted = prepared.get(_capsule_session, service)
                running = start(_capsule_session, wanted, request.config, volumes)
            with running:
                yield running

    return _made(fixture, scope, asked.call, asked)


def network_fixture(
    name: str | None = None, *, outbound: bool = False, scope: Scope = "function"
) -> Callable[..., Network]:
    """A fixture that gives a ``Network`` for ``network=`` of containers; with ``outbound`` they have a way out."""
    call = Call.at(1)

    def fixture(request: pytest.FixtureRequest, _capsule_session: CapsuleSession) -> Iterator[Network]:
        with explaining(call.where, request.config):
            network = _capsule_session.engine.network(name, outbound=outbound)
        with network:
            yield network

    return _made(fixture, scope, call)


def asked_of(fixture: Callable[..., object]) -> Asked | None:
    """What the factory that made a fixture's function was asked for; ``None`` for any other function."""
    return getattr(fixture, _ASKED, None)


def _made(function: Callable[..., Any], scope: Scope, call: Call, asked: Asked | None = None) -> Callable[..., Any]:
    import pytest

    setattr(function, _ASKED, asked)
    fixture: Callable[..., Any] = pytest.fixture(scope=scope)(staticmethod(function) if call.in_class else function)
    return fixture


def _asked(*args: Any, **keywords: Any) -> Asked:
    call = Call.at(2)
    try:
        return Asked(ContainerSpec.of(*args, **keywords), call)
    except UsageError as error:
        raise placed(error, call.where) from None
