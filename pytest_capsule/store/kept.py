"""What was made of files that seldom change, for as long as they are the same files."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
TICK = 20_000_000
"""Nanoseconds: twice the coarsest clock tick of Linux, within which two changes have one time."""


class Kept(Generic[T]):
    """What ``make`` makes of a file or directory, made anew when that is another or has changed; for any thread."""

    def __init__(self, make: Callable[[Path], T]) -> None:
        self._make = make
        self._known: dict[str, tuple[tuple[int, int, int], T]] = {}

    def of(self, path: Path) -> T:
        """What is made of ``path``; ``FileNotFoundError`` when there is nothing."""
        name = str(path)
        info = os.stat(name)
        state = (info.st_ino, info.st_size, info.st_mtime_ns)  # before it is read: a change meanwhile shows next time
        known = self._known.get(name)
        if known is not None and known[0] == state:
            return known[1]
        made = self._make(path)
        if info.st_mtime_ns < time.time_ns() - TICK:
            self._known[name] = (state, made)
        return made
