"""What comes by itself is waited for, and what this process has is counted."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0  # seconds


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Ask until it is true, for a bounded time; gives what it said last."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        pause.wait(0.002)
    return found


def descriptors() -> dict[str, str]:
    """The descriptors of this process that somebody still has, by number, and what each is of."""
    gc.collect()
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found
