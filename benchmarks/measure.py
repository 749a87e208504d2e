"""Take turns: every subject is timed a little, then the next, so that a noisy moment hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Action = Callable[[], float]
"""Do the thing once and return the seconds that it took."""


def timed(work: Callable[[], object]) -> Action:
    """``work`` as an action, timed from outside."""

    def action() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return action


@dataclass(frozen=True, slots=True)
class Turns:
    """How often a subject comes up: in each round ``burst`` times in a row, after ``pause`` seconds each time."""

    rounds: int
    burst: int = 1
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one subject: seconds of each time, in the order in which they were taken."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The time that 95 of 100 stay under, in seconds; of few samples, the slowest."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * 0.95))]


def take_turns(actions: Mapping[str, Action], turns: Mapping[str, Turns]) -> dict[str, Figures]:
    """Measure ``actions`` (by subject) A B C, B C A, C A B and so on, after one time each that does not count."""
    figures = {name: Figures() for name in actions}
    names = list(actions)
    for name in names:
        actions[name]()
    for number in range(max((turns[name].rounds for name in names), default=0)):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            if number < turns[name].rounds:
                figures[name].seconds.extend(_turn(actions[name], turns[name]))
    return figures


def _turn(action: Action, turns: Turns) -> list[float]:
    seconds = []
    for _ in range(turns.burst):
        if turns.pause:
            time.sleep(turns.pause)
        seconds.append(action())
    return seconds
