"""What a test's report gets from us: sections on its containers when it fails, and facts for every test."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_capsule import evidence
from pytest_capsule.errors import BuildError, CapsuleError
from pytest_capsule.keeping import keep, open_shell
from pytest_capsule.runtime.container import Container
from pytest_capsule.settings import SETTINGS
from pytest_capsule.summary import ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import pytest

    from pytest_capsule.session import CapsuleSession

_OUR_FOLDER = os.path.join(os.path.dirname(__file__), "")
_STANDARD_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")


def end_at_the_call(error: BaseException) -> None:
    """Let the traceback of what we have raised end at the line that called us; ours are of no use to who reads it."""
    if not isinstance(error, (CapsuleError, OSError, subprocess.SubprocessError)):
        return  # a mistake of ours, perhaps
    calling: TracebackType | None = None  # the last frame of somebody else's that is not below one of ours
    ours = False
    frame = error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file.startswith(_OUR_FOLDER):
            ours = True
        elif not ours or not file.startswith((_STANDARD_LIBRARY, "<")):  # a callback is as good as the test
            calling, ours = frame, False
        frame = frame.tb_next
    if ours and calling is not None:
        calling.tb_next = None


def complete(
    report: pytest.TestReport, item: pytest.Item, session: CapsuleSession, raised: BaseException | None
) -> None:
    """Give the report of one phase of a test what there is to say of its containers, and of an image not built."""
    failed = report.failed and report.when in ("setup", "call")
    containers: list[evidence.Facts] = []
    if failed or report.when == "call":
        for container in containers_of(item, session):
            said = (evidence.full if failed else evidence.brief)(container, session.start_of(container))
            containers.append(said | _kept(container, item, session, failed=failed))
    if failed:
        report.sections += [section for said in containers for section in evidence.sections(said)]
    properties = dict(one for said in containers for one in _properties(said))
    facts: evidence.Facts = {"containers": containers}
    error = _build_error(raised) if failed else None
    if error is not None:
        unbuilt = facts["failed_build"] = evidence.failed_build(error, session.unmade_by(error))
        report.sections.append(evidence.build_section(unbuilt))
        properties[f"image.{unbuilt['image'] or 'of the test'}.failing_step"] = (
            f"{error.path}:{error.line}: {error.step}"
        )
    others = [
        one for one in item.user_properties if one[0] not in properties
    ]  # not those of a subtest, or a try before
    item.user_properties[:] = [*others, *properties.items()]
    news = session.take_news()
    if containers or error is not None or news.starts or news.images:
        setattr(report, ATTRIBUTE, facts | asdict(news))


def _build_error(raised: BaseException | None) -> BuildError | None:
    """That of an image, behind what a test has made of it: our fixtures put it into words of pytest's."""
    while raised is not None and not isinstance(raised, BuildError):
        raised = raised.__cause__ or raised.__context__
    return raised


def show(item: pytest.Item, session: CapsuleSession) -> None:
    """Open a shell in the first container of a test that has failed."""
    for container in containers_of(item, session):
        open_shell(container, item.config)
        return


def containers_of(item: pytest.Item, session: CapsuleSession) -> Iterator[Container]:
    """A test's containers: those among the values of its fixtures, and those that did not even get ready."""
    seen = set()
    for value in (*_fixture_values(item), session.stranded()):
        several = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
        for one in several:
            if isinstance(one, Container) and one.status != "removed" and one.id not in seen:
                seen.add(one.id)
                yield one


def _fixture_values(item: pytest.Item) -> Iterator[object]:
    """What the fixtures of a test gave so far; ``funcargs`` lacks what only a fixture that failed had asked for."""
    request = getattr(item, "_request", None)
    for definition in request._fixture_defs.values() if request else ():
        if definition.cached_result is not None:
            yield definition.cached_result[0]


def _kept(container: Container, item: pytest.Item, session: CapsuleSession, *, failed: bool) -> evidence.Facts:
    settings = item.config.stash[SETTINGS]
    if settings.keep == "never" or (settings.keep == "failed" and not failed):
        return {}
    alone = len(list(containers_of(item, session))) == 1
    try:
        return {"kept": keep(container, session.engine, item.nodeid, cache_dir=settings.cache_dir, alone=alone)}
    except (CapsuleError, OSError) as error:
        return {"not_kept": str(error)}


def _properties(facts: evidence.Facts) -> Iterator[tuple[str, object]]:
    """For JUnit's XML: ``container.NAME.FACT``."""
    for name in ("image", "exit_code", "signal", "killed_for", "start_seconds", "kept"):
        if (value := facts.get(name)) is not None:
            yield f"container.{facts['name']}.{name}", value
