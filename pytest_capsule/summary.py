"""What a whole run did with containers: the lines at its end, and the JSON report.

All of it comes from the reports of tests, which workers of xdist send as any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    Facts = dict[str, Any]

ATTRIBUTE = "capsule"
"""Where a report has what there is to say of containers: plain values, see ``testimony``."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one phase of a test said."""

    nodeid: str
    when: str
    outcome: str
    duration: float
    facts: Facts
    subtest: str | None = None


class Gatherer:
    """Hears the reports of all tests, wherever they ran."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report says of containers."""
        facts = getattr(report, ATTRIBUTE, None)
        if facts is not None:
            when = report.when or ""
            self.told.append(Told(report.nodeid, when, report.outcome, report.duration, facts, _subtest(report)))


def show(reporter: pytest.TerminalReporter, told: Sequence[Told], durations: int) -> None:
    """The end of a run on the terminal: what was kept, what was slow, and one line on all of it."""
    if kept := [(one, facts) for one in told for facts in one.facts["containers"] if "kept" in facts]:
        reporter.write_sep("=", "kept containers")
        for one, facts in kept:
            reporter.write_line(f"{one.nodeid} {facts['name']}")
            reporter.write_line(f"  {facts['kept']}")
    if durations:
        reporter.write_sep("=", f"slowest {durations} builds and starts")
        for seconds, what in slowest(told)[:durations]:
            reporter.write_line(f"{seconds:.2f}s {what}")
    reporter.write_line(f"capsule: {line(told)}")


def line(told: Sequence[Told]) -> str:
    """``3 containers started in 0.01 s; 2 images: 1 built in 4.2 s, 1 from the cache, which saved 9.1 s``."""
    starts = [start for one in told for start in one.facts["starts"]]
    words = f"{_count(len(starts), 'container')} started in {sum(start['seconds'] for start in starts):.2f} s"
    unbuilt = {one.facts["failed_build"]["image"] for one in told if "failed_build" in one.facts} - {None}
    if unbuilt:
        words += f"; {_count(len(unbuilt), 'image')} cannot be built"
    images = _images(told)
    if not images:
        return words
    built = [image for image in images if image["steps"]]
    words += f"; {_count(len(images), 'image')}: {len(built)} built"
    if built:
        words += f" in {sum(image['seconds'] for image in built):.1f} s"
    words += f", {len(images) - len(built)} from the cache"
    saved = sum(image["saved"] for image in images)
    return words + (f", which saved {saved:.1f} s" if saved >= 0.05 else "")


def slowest(told: Sequence[Told]) -> list[tuple[float, str]]:
    """Builds and starts, the slowest first: seconds, and what it was."""
    found = [(image["seconds"], f"build    {image['image']}") for image in _images(told) if image["steps"]]
    for one in told:
        found += [(start["seconds"], f"{one.when:<8} {one.nodeid} {start['image']}") for start in one.facts["starts"]]
    return sorted(found, reverse=True)


def write_report(path: Path, told: Sequence[Told], exit_code: int) -> None:
    """Write the JSON report of a run that ends so, which a CI can keep; ``OSError`` where it cannot be written."""
    report = {"version": 1, "exit_code": exit_code, "images": _images(told), "tests": list(_tests(told))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def _tests(told: Sequence[Told]) -> Iterator[Facts]:
    for one in told:
        if one.facts["containers"] or "failed_build" in one.facts:
            yield {
                "nodeid": one.nodeid,
                **({} if one.subtest is None else {"subtest": one.subtest}),
                "when": one.when,
                "outcome": one.outcome,
                "duration": round(one.duration, 4),
                **{key: one.facts[key] for key in ("containers", "failed_build") if key in one.facts},
            }


def _subtest(report: pytest.TestReport) -> str | None:
    """What a subtest's report is of: its message, and its values as ``name=value``."""
    context = getattr(report, "context", None)
    if context is None:
        return None
    return " ".join((*([context.msg] if context.msg else []), *(f"{k}={v}" for k, v in context.kwargs.items())))


def _images(told: Sequence[Told]) -> list[Facts]:
    """Each image once: several workers, and several tests, may have asked for it."""
    found: dict[str, Facts] = {}
    for made in (image for one in told for image in one.facts["images"]):
        known = found.setdefault(made["image"], dict(made))
        if made["steps"] > known["steps"]:
            known.update(made)
    return list(found.values())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
