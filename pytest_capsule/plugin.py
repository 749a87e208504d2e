"""The pytest plugin: options, the marker, the fixtures, and what a failing test's report says of its containers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

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
    open_session,
    prepare,
)
from pytest_capsule.settings import LENDER, SETTINGS, add_options, read_settings
from pytest_capsule.summary import Gatherer, show, write_report

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_capsule.lending import Lender

__all__ = ["_capsule_session", "capsule", "container", "container_spec", "containers"]

_MARKER = """\
container(image=None, *, build=None, **keywords): the test's own container, for the fixtures container and containers \
(see pytest --fixtures). image is a reference or an Image, build a folder, a Dockerfile or a Build.
    keywords, as in Docker: name target build_args command entrypoint env user workdir hostname ports volumes tmpfs
    network extra_hosts wait timeout memory cpus pids read_only cap_add cap_drop privileged labels stdin
    examples: container("hello-world"), container(build="app", ports=[8000], wait=wait.http("/", port=8000))"""
_GATHERER = pytest.StashKey[Gatherer]()
_NEXT = pytest.StashKey["pytest.Item | None"]()
_LENDER = pytest.StashKey["Lender"]()
_UNWRITTEN = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ours."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add ours."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)
    settings = config.stash[SETTINGS] = read_settings(config)
    if settings.shell and getattr(config.option, "dist", "no") != "no":
        raise pytest.UsageError("--capsule-shell: workers have no terminal; leave out -n, or add -n0")
    if not hasattr(config, "workerinput"):
        config.stash[_GATHERER] = Gatherer()
        config.pluginmanager.register(config.stash[_GATHERER], "capsule-gatherer")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Before a worker of pytest-xdist starts: tell it where the containers are that all of them share."""
    config = node.config
    if _LENDER not in config.stash:
        from pytest_capsule.lending import Lender  # here: most runs have one process

        lender: Lender = Lender(lambda: open_session(config))
        config.stash[_LENDER] = lender
        config.add_cleanup(lender.close)
    node.workerinput[LENDER] = config.stash[_LENDER].address


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


def pytest_make_parametrize_id(val: object) -> str | None:
    """Call a parameter that is a ``Build`` by what it builds: ``app:dev``, not ``build0``."""
    spec = sys.modules.get("pytest_capsule.spec")  # there is no such parameter before that is imported
    return val.short_name if spec is not None and isinstance(val, spec.Build) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Before the first test, make the images ready that the tests will need."""
    config = session.config
    only_planned = config.option.collectonly or getattr(config.option, "setupplan", False)
    if only_planned or (session.testsfailed and not config.option.continue_on_collection_errors):
        return
    has_workers = getattr(config.option, "dist", "no") != "no"
    items = [] if has_workers else session.items  # who leads workers collects none; pytest 7 has no field for it
    functions = [item for item in items if isinstance(item, pytest.Function)]
    asking = [function for function in functions if "_capsule_session" in function.fixturenames]
    if has_workers or (asking and not hasattr(config, "workerinput")):
        from pytest_capsule.termination import heed_sigterm

        heed_sigterm(config)
    if asking:
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
    """Give a report what there is to say of the test's containers, and no lines of our own code."""
    session, raised = item.config.stash.get(SESSION, None), None if call.excinfo is None else call.excinfo.value
    if session is None:
        return (yield)
    from pytest_capsule.testimony import complete, end_at_the_call

    if raised is not None and not item.config.option.fulltrace:
        end_at_the_call(raised)
    report = yield
    complete(report, item, session, raised)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector, report: pytest.TestReport) -> None:
    """``--capsule-shell``: on a failure, a shell in the test's container."""
    session = node.config.stash.get(SESSION, None)
    if session is not None and isinstance(node, pytest.Item) and node.config.stash[SETTINGS].shell:
        from pytest_capsule.testimony import show

        show(node, session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After a failed setup has been reported, close the containers that did not get ready."""
    session = item.config.stash.get(SESSION, None)
    if session is not None:
        session.clear()


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    """Show in what results of commands, lists of changed files and contents of files differ."""
    if config.stash.get(SESSION, None) is None:
        return None
    from pytest_capsule.assertions import explain

    return explain(op, left, right)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Write the report of the run, before anything can fail that is torn down with the session."""
    config = session.config
    path = config.stash[SETTINGS].report
    if path is None or _GATHERER not in config.stash:
        return
    try:
        write_report(path, config.stash[_GATHERER].told, int(exitstatus))
    except OSError as error:
        config.stash[_UNWRITTEN] = f"ERROR: --capsule-report: {path}: {error.strerror}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the run did with containers."""
    told = config.stash[_GATHERER].told
    if told and config.option.verbose >= 0:
        show(terminalreporter, told, config.stash[SETTINGS].durations)
    if _UNWRITTEN in config.stash:
        terminalreporter.write_line(config.stash[_UNWRITTEN], red=True)
