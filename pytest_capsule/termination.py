"""SIGTERM, by which a CI cancels a job, ends a run of pytest in order: as Ctrl-C does, with the report of what ran."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


_ONE_ORDER = 1.0
"""Seconds in which several are one: timeout(1) sends one to its command, and one to the command's process group."""


def heed_sigterm(config: pytest.Config) -> None:
    """Until the run's end let the first SIGTERM interrupt it, unless somebody else heeds it already.

    A later one ends the process at once, and so does the first one a child that a test has forked.
    """
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        return
    pytest_itself = os.getpid()
    heeded: float | None = None

    def interrupt(number: int, _frame: object) -> None:
        __tracebackhide__ = True  # pytest says where it was interrupted, and that is not here
        nonlocal heeded
        now = time.monotonic()
        if os.getpid() != pytest_itself or (heeded is not None and now - heeded > _ONE_ORDER):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif heeded is None:
            heeded = now
            raise KeyboardInterrupt("SIGTERM")

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, interrupt)
    config.add_cleanup(restore)
