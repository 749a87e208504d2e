"""The pytest plugin: options, the marker, the fixtures, and what a failing test's report says of its containers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_capsule import hookspecs
from pytest_capsule.fixtures import (
    SESSION,
    _capsule_session,
    capsule,
    container,
    container_spec,
    containers,
    fetch_images,
    prepare,
)
from pytest_capsule.settings import SETTINGS, add_options, read_settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pytest_capsule.runtime.container import Container

__all__ = ["_capsule_session", "capsule", "container", "container_spec", "containers"]

_LINES = 50
_MARKER = """\
container(image=None, *, build=None, **keywords): the test's own container, for the fixtures container and containers \
(see pytest --fixtures). image is a reference or an Image, build a folder, a Dockerfile or a Build.
    keywords, as in Docker: name target build_args command entrypoint env user workdir hostname ports volumes tmpfs
    network extra_hosts wait timeout memory cpus pids read_only cap_add cap_drop privileged labels stdin
    examples: container("hello-world"), container(build="app", ports=[8000], wait=wait.http("/", port=8000))"""
_NEXT = pytest.StashKey["pytest.Item | None"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ours."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add ours."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)
    config.stash[SETTINGS] = read_settings(config)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--capsule-check``: say what this host can do, and end."""
    if not config.getoption("capsule_check"):
        return None
    from pytest_capsule.errors import CapsuleError

    config._do_configure()  # as pytest's own --markers does, for the terminal
    try:
        from pytest_capsule.engine import Engine  # which says so where there is no Linux

        with Engine(config.stash[SETTINGS].cache_dir) as engine:
            report = engine.check()
        config.get_terminal_writer().line(report.table())
    except CapsuleError as error:
        raise pytest.UsageError(str(error)) from None
    finally:
        config._ensure_unconfigure()
    return 0 if report.works else 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Before the first test, make the images ready that the tests will need."""
    config = session.config
    only_planned = config.option.collectonly or getattr(config.option, "setupplan", False)
    if only_planned or (session.testsfailed and not config.option.continue_on_collection_errors):
        return
    functions = [item for item in session.items if isinstance(item, pytest.Function)]
    if asking := [function for function in functions if "_capsule_session" in function.fixturenames]:
        fetch_images(asking)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Remember which test comes next."""
    item.stash[_NEXT] = nextitem


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Before a test runs, begin with the container of the next one: it is made meanwhile."""
    session, following = item.config.stash.get(SESSION, None), item.stash.get(_NEXT, None)
    if session is not None:
        if following is not None:
            prepare(session, following)
        session.bury()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give the report of a failing test the last words of its containers."""
    report = yield
    if report.failed and report.when in ("setup", "call"):
        for one in _containers_of(item):
            report.sections.append((f"container {one.name}", _describe(one)))
    return report


def _containers_of(item: pytest.Item) -> Iterator[Container]:
    """The containers among the values of a test's fixtures, whatever fixture or factory made them."""
    home = sys.modules.get("pytest_capsule.runtime.container")
    if home is None:  # nobody has started one
        return
    seen = set()
    for value in getattr(item, "funcargs", {}).values():
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, home.Container) and id(one) not in seen:
                seen.add(id(one))
                yield one


def _describe(one: Container) -> str:
    code = one.exit_code
    state = one.status if code is None else f"exited with code {code}"
    if code is None and (health := one.health()) is not None:
        state += f" ({health})"
    lines = one.logs().splitlines()
    if one.killed_for is not None:
        state += f", {'killed' if code == 137 else 'a process in it was killed'}: {one.killed_for}"
    head = f"image {one.image}, {state}"
    if not lines:
        return f"{head}, nothing logged"
    if len(lines) > _LINES:
        head += f", the last {_LINES} of {len(lines)} lines"
    return "\n".join([head, *lines[-_LINES:]])
