"""Stages at the same time: each in a thread of its own, once those that it needs are done."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pytest_capsule.build.events import BuildEvent

_PATIENCE = 0.2  # seconds between two looks at whether all was given up, or a signal has come
_GRACE = 10  # seconds in which canceled work is to end


class Canceled(Exception):
    """Work that was given up because other work has failed."""


@dataclass(frozen=True, slots=True)
class _Told:
    event: BuildEvent
    heard: threading.Event | None


@dataclass(frozen=True, slots=True)
class _Ended:
    key: int
    error: BaseException | None


class Schedule:
    """Pieces of work that need each other, at most ``limit`` at once.

    What they ``tell`` is passed to ``hear`` in the thread that calls ``run``, one event after the other. ``cancel``
    makes the work that is going on end soon.
    """

    def __init__(self, hear: Callable[[BuildEvent], None], cancel: Callable[[], None], *, limit: int) -> None:
        self._hear = hear
        self._cancel = cancel
        self._limit = limit
        self._inbox: queue.SimpleQueue[_Told | _Ended] = queue.SimpleQueue()
        self._running: dict[int, threading.Thread] = {}
        self._given_up = threading.Event()

    def tell(self, event: BuildEvent) -> None:
        """Pass an event on; for the work, in its threads.

        Of output there may be any amount, so who tells of it goes on when it was heard.
        """
        heard = threading.Event() if event.kind == "output" else None
        self._inbox.put(_Told(event, heard))
        while heard is not None and not heard.wait(_PATIENCE) and not self._given_up.is_set():
            pass

    def run(self, needs: Mapping[int, Collection[int]], work: Callable[[int], object]) -> None:
        """Do ``work(key)`` for each key of ``needs``, after those that it needs.

        The first failure cancels all other work, and is raised when that has ended. What does not end soon, as a
        server that has stopped to send, is left behind: it can tell nothing any more.
        """
        waiting = {key: set(others) for key, others in needs.items()}
        try:
            failure = self._first_failure(waiting, work)
            if failure is not None:
                self._cancel()
                self._hear_out()
        except BaseException:  # whoever hears has failed, or somebody interrupts us and may have swallowed a message
            self._cancel()
            self._leave()
            raise
        if failure is not None:
            raise failure

    def _first_failure(self, waiting: dict[int, set[int]], work: Callable[[int], object]) -> BaseException | None:
        self._begin(waiting, work)
        while self._running:
            ended = self._next_end()
            if ended.error is not None:
                return ended.error
            self._begin(_without(ended.key, waiting), work)
        return None

    def _hear_out(self) -> None:
        """Hear how the canceled work ends."""
        deadline = time.monotonic() + _GRACE
        with contextlib.suppress(queue.Empty):
            while self._running:
                self._next_end(deadline)
        self._given_up.set()

    def _leave(self) -> None:
        """Let the canceled work end, and hear nothing more."""
        self._given_up.set()
        deadline = time.monotonic() + _GRACE
        for thread in self._running.values():
            thread.join(max(0, deadline - time.monotonic()))

    def _next_end(self, deadline: float | None = None) -> _Ended:
        """Hear what is told until some work ends; ``queue.Empty`` after the deadline."""
        while True:
            item = self._next(math.inf if deadline is None else deadline)
            if isinstance(item, _Ended):
                self._running.pop(item.key).join()
                return item
            try:
                self._hear(item.event)
            finally:
                if item.heard is not None:
                    item.heard.set()

    def _next(self, deadline: float) -> _Told | _Ended:
        """What is in the inbox next. A wait without an end would hear of a Ctrl-C that came just before it only behind
        it: so it looks up now and then."""
        while True:
            remaining = max(0, deadline - time.monotonic())
            try:
                return self._inbox.get(timeout=min(_PATIENCE, remaining))
            except queue.Empty:
                if not remaining:
                    raise

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


def _without(done: int, waiting: dict[int, set[int]]) -> dict[int, set[int]]:
    for others in waiting.values():
        others.discard(done)
    return waiting
