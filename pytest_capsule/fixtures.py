"""The fixtures: what a test asks for by name.

Everything of ours is imported when a fixture is first used, so that a run without containers pays nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_capsule.engine import Engine
    from pytest_capsule.marks import Marked, Place
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.session import CapsuleSession
    from pytest_capsule.spec import ContainerSpec


SESSION = pytest.StashKey["CapsuleSession"]()
"""Where the session's engine is, from the first container on."""


def open_session(config: pytest.Config) -> CapsuleSession:
    """The one session of a pytest run, opened now if it was not; it ends with the run at the latest."""
    if SESSION not in config.stash:
        from pytest_capsule.session import CapsuleSession  # which says so where there is no Linux

        session = config.stash[SESSION] = CapsuleSession(config)
        config.add_cleanup(session.engine.close)
    return config.stash[SESSION]


@pytest.fixture(scope="session")
def _capsule_session(pytestconfig: pytest.Config) -> Iterator[CapsuleSession]:
    from pytest_capsule.marks import explaining

    with explaining("capsule", pytestconfig):
        session = open_session(pytestconfig)
    with session.engine:
        yield session
    del pytestconfig.stash[SESSION]


@pytest.fixture(scope="session")
def capsule(_capsule_session: CapsuleSession) -> Engine:
    """The session's engine: builds images, runs containers. What a test leaves open is closed at the session's end."""
    return _capsule_session.engine


@pytest.fixture
def container_spec(request: pytest.FixtureRequest) -> ContainerSpec:
    """What the test's marker asks for; override it to change what ``container`` starts."""
    marked = _marks(request.node)
    if not marked:
        pytest.fail(
            f"{request.node.nodeid} asks for a container and says not which\n"
            '  hint: mark it with @pytest.mark.container("IMAGE") or @pytest.mark.container(build="FOLDER")',
            pytrace=False,
        )
    return marked[0].spec


@pytest.fixture
def containers(
    request: pytest.FixtureRequest, _capsule_session: CapsuleSession, container_spec: ContainerSpec
) -> Iterator[dict[str, Container]]:
    """All of the test's containers by name, on one network; started in the order of the markers."""
    from pytest_capsule.marks import explaining

    item: pytest.Item = request.node
    hook = item.ihook  # of a conftest.py only for the tests below its folder
    marked = _marks(item)
    places: list[Place | str] = [*(one.where for one in marked)] or [item.nodeid]
    with explaining(places[0], item.config):
        specs = [_spec_from("the fixture container_spec", container_spec), *(one.spec for one in marked[1:])]
    folders = _folders(item)
    running: dict[str, Container] = {}
    with contextlib.ExitStack() as stack:
        with explaining(places[0], item.config):
            network = stack.enter_context(_capsule_session.network(specs[0])) if len(specs) > 1 else None
        volumes = stack.enter_context(_capsule_session.engine.volume_scope())
        for spec, where in zip(specs, places, strict=True):
            with explaining(where, item.config):
                spec = _spec_from(
                    "the hook pytest_capsule_spec", hook.pytest_capsule_spec(item=item, spec=spec) or spec
                )
                if network is not None and spec.network is None:
                    spec = spec.with_changes(network=network)
                container = _capsule_session.start(spec, folders, volumes)
            stack.callback(_capsule_session.end, container, spec)
            running[container.name] = container
            stack.callback(hook.pytest_capsule_container_stopping, container=container, item=item)
            hook.pytest_capsule_container_started(container=container, item=item)
        yield running


@pytest.fixture
def container(containers: dict[str, Container]) -> Container:
    """The test's container, running, what it waits for satisfied; of several, the first."""
    return next(iter(containers.values()))


def fetch_images(items: list[pytest.Function]) -> None:
    """Build and pull what the tests will need; what cannot be is theirs to say."""
    from pytest_capsule.errors import CapsuleError

    with contextlib.suppress(CapsuleError):
        session = open_session(items[0].config)
        from pytest_capsule.prefetch import prefetch

        prefetch(session, items)


def prepare(session: CapsuleSession, item: pytest.Item) -> None:
    """Begin with the container of a test that comes next, unless something stands between its marker and that."""
    from pytest_capsule.errors import CapsuleError
    from pytest_capsule.marks import read_marks

    if not isinstance(item, pytest.Function) or "containers" not in item.fixturenames:
        return
    overridden = len(item._fixtureinfo.name2fixturedefs.get("container_spec", ())) > 1
    if overridden or item.ihook.pytest_capsule_spec.get_hookimpls():
        return
    with contextlib.suppress(CapsuleError):  # the test itself will say so
        if marked := read_marks(item):
            session.prepare(marked[0].spec, _folders(item), of_several=len(marked) > 1)


def _marks(item: pytest.Item) -> list[Marked]:
    from pytest_capsule.marks import explaining, read_marks

    with explaining("", item.config):
        return read_marks(item)


def _spec_from(giver: str, given: object) -> ContainerSpec:
    """What a user's function gave, if it is of any use."""
    from pytest_capsule.errors import UsageError
    from pytest_capsule.spec import ContainerSpec

    if not isinstance(given, ContainerSpec):
        raise UsageError(f"{giver} gave {given!r}", hint="it gives a ContainerSpec, such as spec.with_changes(...)")
    return given


def _folders(item: pytest.Item) -> list[Path]:
    """Where a marker's relative paths start: the test file's folder, then pytest's rootdir."""
    return [item.path.parent, item.config.rootpath]
