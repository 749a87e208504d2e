"""Factories of fixtures, for ``conftest.py``: an image, a container or a network of any scope."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_capsule.errors import UsageError
from pytest_capsule.marks import explaining, placed
from pytest_capsule.spec import ContainerSpec

if TYPE_CHECKING:
    import pytest

    from pytest_capsule.networks import Network
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.session import CapsuleSession
    from pytest_capsule.store.image import Image

Scope = Literal["session", "package", "module", "class", "function"]


def image_fixture(
    image: str | None = None,
    *,
    build: Any = None,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    scope: Scope = "session",
) -> Callable[..., Image]:
    """A fixture that gives an ``Image``: a reference, or what ``build`` builds (as in the marker)."""
    import pytest

    spec, where, folder = _asked(ContainerSpec.of, image, build=build, target=target, build_args=build_args or {})

    @pytest.fixture(scope=scope)
    def fixture(request: pytest.FixtureRequest) -> Image:
        session: CapsuleSession = request.getfixturevalue("_capsule_session")
        with explaining(where, request.config):
            return session.image(spec, [folder, request.config.rootpath])

    return fixture


def container_fixture(image: Any = None, *, scope: Scope = "function", **keywords: Any) -> Callable[..., Container]:
    """A fixture that gives a running ``Container``; the keywords are those of the marker."""
    import pytest

    spec, where, folder = _asked(ContainerSpec.of, *([] if image is None else [image]), **keywords)

    @pytest.fixture(scope=scope)
    def fixture(request: pytest.FixtureRequest) -> Iterator[Container]:
        session: CapsuleSession = request.getfixturevalue("_capsule_session")
        with session.engine.volume_scope() as volumes:
            with explaining(where, request.config):
                container = session.start(spec, [folder, request.config.rootpath], volumes)
            with container:
                yield container

    return fixture


def network_fixture(name: str | None = None, *, scope: Scope = "function") -> Callable[..., Network]:
    """A fixture that gives a ``Network`` for ``network=`` of containers."""
    import pytest

    where = _caller()[0]

    @pytest.fixture(scope=scope)
    def fixture(request: pytest.FixtureRequest) -> Iterator[Network]:
        session: CapsuleSession = request.getfixturevalue("_capsule_session")
        with explaining(where, request.config):
            network = session.engine.network(name)
        with network:
            yield network

    return fixture


def _asked(make: Callable[..., ContainerSpec], *args: Any, **keywords: Any) -> tuple[ContainerSpec, str, Path]:
    where, folder = _caller(depth=3)
    try:
        return make(*args, **keywords), where, folder
    except UsageError as error:
        raise placed(error, where) from None


def _caller(depth: int = 2) -> tuple[str, Path]:
    """Where the factory was called: ``file:line`` for errors, and the folder from which relative paths start."""
    frame = sys._getframe(depth)
    path = Path(frame.f_code.co_filename)
    return f"{path}:{frame.f_lineno}", path.parent
