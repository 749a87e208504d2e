"""What a build does beside its steps, since none of them waits for it: what they have left behind is cleared away, and
what they took is written down.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

_PATIENCE = 1.0  # seconds between two looks at whether there is anybody to wait for
Errand = Callable[[], object]


class Errands:
    """A thread, started for the first errand, that runs them in their order; all are done when the block ends.

    ``OSError`` and the like of the first that failed is raised then, where nothing else is.
    """

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def add(self, errand: Errand) -> None:
        """Have it done soon; from any thread."""
        self._inbox.put(errand)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="capsule-errands", daemon=True)
                self._thread.start()

    def settle(self) -> None:
        """Wait until all that was added is done."""
        done = threading.Event()
        self._inbox.put(done.set)
        while self._thread is not None and self._thread.is_alive() and not done.wait(_PATIENCE):
            pass  # what was left behind when its build ended waits for nobody

    def _run(self) -> None:
        while (errand := self._inbox.get()) is not None:
            try:
                errand()
            except BaseException as error:
                self._failure = self._failure or error

    def __enter__(self) -> Errands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure
