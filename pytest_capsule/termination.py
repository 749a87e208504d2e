"""SIGTERM, by which a CI cancels a job, ends a run of pytest in order: as Ctrl-C does, with the report of what ran."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def heed_sigterm(config: pytest.Config) -> None:
    """Until the run's end let the first SIGTERM interrupt it, unless somebody else heeds it already.

    The second one ends the process at once, and so does the first one a child that a test has forked.
    """
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        return
    pytest_itself = os.getpid()

    def interrupt(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != pytest_itself:
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt("SIGTERM")

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, interrupt)
    config.add_cleanup(restore)
