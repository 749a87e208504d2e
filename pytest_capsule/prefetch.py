"""Before the first test: the images that the tests will need are built and pulled, in parallel."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from pytest_capsule.errors import CapsuleError
from pytest_capsule.factories import asked_of
from pytest_capsule.marks import read_marks
from pytest_capsule.prefetch_view import Finished, view_of
from pytest_capsule.session import image_key, image_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import pytest

    from pytest_capsule.build.events import BuildEvent
    from pytest_capsule.session import CapsuleSession
    from pytest_capsule.spec import ContainerSpec

    News = tuple[str, BuildEvent | Finished]

_AT_ONCE = 4
_TICK = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Need:
    """An image that tests need: how it is called in the view, the spec that names it, where relative paths start."""

    name: str
    spec: ContainerSpec
    folders: Sequence[Path]


def prefetch(session: CapsuleSession, items: Iterable[pytest.Function]) -> None:
    """Build and pull what the tests need. An image that fails is left for its own tests to say."""
    waiting = list(_needs(items))
    view, left = view_of(session.config), len(waiting)
    news: SimpleQueue[News] = SimpleQueue()
    waiting.reverse()
    # Not a pool: an interrupted pytest must not wait at its end for a build that waits for another process.
    for number in range(min(_AT_ONCE, left)):
        threading.Thread(
            target=_work, args=(session, waiting, news), name=f"capsule-images-{number}", daemon=True
        ).start()
    view.begin(left)
    try:
        while left:
            try:
                name, what = news.get(timeout=_TICK)
            except Empty:
                view.tick()
                continue
            if isinstance(what, Finished):
                left -= 1
                view.finished(name, what)
            else:
                session.tell(what)
                view.event(name, what)
    except BaseException:  # Ctrl-C: what goes on in the threads ends with the engine
        session.engine.close()
        raise
    finally:
        view.end()


def _work(session: CapsuleSession, waiting: list[Need], news: SimpleQueue[News]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            need = waiting.pop()
            began = time.monotonic()
            failure: Exception | None = None

            def tell(event: BuildEvent, name: str = need.name) -> None:
                news.put((name, event))

            try:
                session.fetch(need.spec, need.folders, tell)
            except Exception as error:  # whatever it is: the tests that need the image meet it again
                failure = error
            news.put((need.name, Finished(time.monotonic() - began, failure)))


def _needs(items: Iterable[pytest.Function]) -> Iterator[Need]:
    """The images that the markers and the factories of tests name, each once."""
    seen = set()
    for item in items:
        for spec, folders in _asked_for(item):
            if not isinstance(spec.image, str) and spec.build is None:
                continue  # an image that is there already
            key = image_key(spec, folders)
            if key not in seen:
                seen.add(key)
                yield Need(image_name(spec, folders), spec, folders)


def _asked_for(item: pytest.Function) -> Iterator[tuple[ContainerSpec, list[Path]]]:
    if _is_skipped(item):
        return
    if "containers" in item.fixturenames:
        with contextlib.suppress(CapsuleError):  # the test itself will say so
            for marked in read_marks(item):
                yield marked.spec, [item.path.parent, item.config.rootpath]
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        asked = asked_of(definitions[-1].func)
        if asked is not None:
            yield asked.spec, asked.folders(item.config)


def _is_skipped(item: pytest.Function) -> bool:
    """Whether that is plain before the test is set up."""
    conditions = (mark.args[:1] for mark in item.iter_markers("skipif"))
    return item.get_closest_marker("skip") is not None or any(condition == (True,) for condition in conditions)
