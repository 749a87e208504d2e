"""How often, and after how long, something is tried again."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

# Too many requests, and what a server or something before it says when it is in trouble.
TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Patience:
    """At most ``attempts`` tries; pauses double from ``first`` to ``longest`` seconds, and vary, so that many differ.

    A pause that the registry asks for is kept to, up to ``obedience`` seconds.
    """

    attempts: int = 5
    first: float = 0.25
    longest: float = 10.0
    obedience: float = 60.0
    sleep: Callable[[float], object] = time.sleep

    def pause(self, failures: int, asked: float | None = None) -> bool:
        """Wait before the next try, after that many have failed; False where there is to be none."""
        if failures >= self.attempts or (asked is not None and asked > self.obedience):
            return False
        own = min(self.longest, self.first * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        self.sleep(max(own, asked or 0.0))
        return True


def seconds_asked(header: str | None, now: Callable[[], float] = time.time) -> float | None:
    """The seconds that ``Retry-After`` asks for, as a number or as a date; ``None`` without a sensible one."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header.strip())
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now())
    except (ValueError, TypeError):
        return None
