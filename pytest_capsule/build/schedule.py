"""Stages at the same time: each in a thread of its own, once those that it needs are done."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pytest_capsule.build.events import BuildEvent

_PATIENCE = 0.2  # seconds between two looks at whether somebody has interrupted us


class Canceled(Exception):
    """Work that was given up because other work has failed."""


@dataclass(frozen=True, slots=True)
class _Told:
    event: BuildEvent
    heard: threading.Event


@dataclass(frozen=True, slots=True)
class _Ended:
    key: int
    error: BaseException | None


class Schedule:
    """Pieces of work that need each other, at most ``limit`` at once.

    What they ``tell`` is passed to ``hear`` in the thread that calls ``run``, one event after the other, and whoever
    told it goes on when it was heard. ``cancel`` makes the work that is going on end soon.
    """

    def __init__(self, hear: Callable[[BuildEvent], None], cancel: Callable[[], None], *, limit: int) -> None:
        self._hear = hear
        self._cancel = cancel
        self._limit = limit
        self._inbox: queue.SimpleQueue[_Told | _Ended] = queue.SimpleQueue()
        self._running: dict[int, threading.Thread] = {}
        self._given_up = threading.Event()

    def tell(self, event: BuildEvent) -> None:
        """Pass an event on; for the work, in its threads."""
        heard = threading.Event()
        self._inbox.put(_Told(event, heard))
        while not heard.wait(_PATIENCE) and not self._given_up.is_set():
            pass

    def run(self, needs: Mapping[int, Collection[int]], work: Callable[[int], object]) -> None:
        """Do ``work(key)`` for each key of ``needs``, after those that it needs.

        The first failure cancels all other work, and is raised when that has ended.
        """
        waiting = {key: set(others) for key, others in needs.items()}
        failure: BaseException | None = None
        try:
            self._begin(waiting, work)
            while self._running:
                item = self._inbox.get()
                if isinstance(item, _Told):
                    try:
                        self._hear(item.event)
                    finally:
                        item.heard.set()
                    continue
                self._running.pop(item.key).join()
                if failure is None and item.error is not None:
                    failure = item.error
                    self._cancel()
                if failure is None:
                    self._begin(_without(item.key, waiting), work)
        except BaseException:  # whoever hears has failed, or somebody interrupts us
            self._cancel()
            self._let_end()
            raise
        if failure is not None:
            raise failure

    def _begin(self, waiting: dict[int, set[int]], work: Callable[[int], object]) -> None:
        ready = [key for key, others in waiting.items() if not others]
        for key in ready[: self._limit - len(self._running)]:
            del waiting[key]
            thread = threading.Thread(target=self._do, args=(work, key), name=f"capsule-stage-{key}", daemon=True)
            thread.start()
            self._running[key] = thread

    def _do(self, work: Callable[[int], object], key: int) -> None:
        try:
            work(key)
        except BaseException as error:
            self._inbox.put(_Ended(key, error))
        else:
            self._inbox.put(_Ended(key, None))

    def _let_end(self) -> None:
        """Wait for what is still running, and trust no message: an interrupt may have swallowed one."""
        self._given_up.set()
        while any(thread.is_alive() for thread in self._running.values()):
            with contextlib.suppress(queue.Empty):
                item = self._inbox.get(timeout=_PATIENCE)
                if isinstance(item, _Told):
                    item.heard.set()


def _without(done: int, waiting: dict[int, set[int]]) -> dict[int, set[int]]:
    for others in waiting.values():
        others.discard(done)
    return waiting
