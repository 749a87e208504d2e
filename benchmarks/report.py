"""The figures as one table for people and one document for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from .measure import Figures

OURS = "capsule"
Results = Mapping[str, Mapping[str, Figures]]
"""Figures by experiment (its title) and subject."""


def table(results: Results, absent: Mapping[str, str]) -> str:
    """One table: a row a subject, in each experiment ours first, then from the fastest to the slowest.

    ``ours to it`` is our median as a multiple of the subject's: 0.50x is half its time. Below the table stands what
    could not be measured, with the reason.
    """
    rows = [("", "median ms", "p95 ms", "times", "ours to it"), *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        (f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[i]:>{widths[i]}}" for i in range(1, 5))).rstrip() for row in rows
    ]
    lines += [f"not measured: {name}: {reason}" for name, reason in absent.items()]
    return "\n".join(lines)


def _rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    for title, subjects in results.items():
        yield (title, "", "", "", "")
        ours = subjects.get(OURS)
        for name, figures in sorted(subjects.items(), key=lambda pair: (pair[0] != OURS, pair[1].median)):
            ratio = _ratio(figures, ours)
            shown = "" if ratio is None or name == OURS else f"{ratio:.2f}x" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"
            median, p95 = f"{figures.median * 1e3:.2f}", f"{figures.p95 * 1e3:.2f}"
            yield (f"  {name}", median, p95, str(len(figures.seconds)), shown)


def _ratio(figures: Figures, ours: Figures | None) -> float | None:
    return ours.median / figures.median if ours else None


def document(results: Results, absent: Mapping[str, str]) -> dict[str, Any]:
    """The same as plain JSON values: every time taken in milliseconds, the medians and ratios, and the machine."""
    return {
        "machine": {
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "root": os.geteuid() == 0,
        },
        "experiments": {
            title: {
                name: {
                    "median_ms": figures.median * 1e3,
                    "p95_ms": figures.p95 * 1e3,
                    "ours_to_it": _ratio(figures, subjects.get(OURS)),
                    "times_ms": [seconds * 1e3 for seconds in figures.seconds],
                }
                for name, figures in subjects.items()
            }
            for title, subjects in results.items()
        },
        "absent": dict(absent),
    }
