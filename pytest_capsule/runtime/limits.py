"""How much a container may take: the values of ``memory``, ``cpus`` and ``pids``, read as Docker reads them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from pytest_capsule.errors import UsageError

# docker/go-units, RAMInBytes: a decimal, perhaps a blank, a unit of 1024s, perhaps "b" or "ib" after it
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+) ?(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_UNITS = "bkmgtp"
_LEAST_MEMORY = 6 << 20  # moby, daemon/daemon_unix.go: linuxMinMemory
_LEAST_CPUS = 0.01


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit in force: its value (bytes, processors or processes), who sees to it, and how, or why not the kernel.

    ``enforced``: the kernel does. ``advisory``: it is watched from outside, and can be exceeded for a moment or evaded.
    """

    value: float
    how: Literal["enforced", "advisory"]
    why: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may take: ``memory`` in bytes, ``cpus`` processors, ``pids`` processes; ``None`` is no limit."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None

    @classmethod
    def parse(cls, memory: int | str | None = None, cpus: float | None = None, pids: int | None = None) -> Limits:
        """The limits that the keywords mean; ``UsageError`` names the one that is wrong."""
        return cls(_memory(memory), _cpus(cpus), _pids(pids))

    def asked(self) -> dict[str, float]:
        """Those that were asked for, by keyword."""
        values = {"memory": self.memory, "cpus": self.cpus, "pids": self.pids}
        return {name: value for name, value in values.items() if value is not None}


def _memory(value: int | str | None) -> int | None:
    if value is None:
        return None
    size = parse_size(value)
    if size is None:
        raise UsageError(
            f"memory={value!r}: it takes a number of bytes, or a text with a unit (b, k, m, g, t or p)",
            hint='for instance memory="64m"',
        )
    if 0 < size < _LEAST_MEMORY:
        raise UsageError(f"memory={value!r}: the least that a container can have is 6 MB", hint='memory="6m" or more')
    return size or None  # Docker: 0 is no limit


def parse_size(value: int | str) -> int | None:
    """The bytes that a number, or a text with a unit of 1024s (``64m``, ``1.5 GiB``), means; ``None`` if neither."""
    if isinstance(value, int):
        return None if isinstance(value, bool) or value < 0 else value
    match = _SIZE.fullmatch(value)
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** _UNITS.index((match[2] or "b").lower()))


def _cpus(value: float | None) -> float | None:
    if value is None:
        return None
    there = len(os.sched_getaffinity(0))
    if isinstance(value, bool) or not _LEAST_CPUS <= value <= there:
        raise UsageError(
            f"cpus={value!r}: range of CPUs is from {_LEAST_CPUS} to {there:.2f}, "
            f"as there are only {there} CPUs available",
            hint="for instance cpus=0.5",
        )
    return float(value)


def _pids(value: int | None) -> int | None:
    if value is None or (value in (-1, 0) and not isinstance(value, bool)):  # Docker: both are no limit
        return None
    if isinstance(value, bool) or value < 0:
        raise UsageError(
            f"pids={value!r}: it takes a number of processes, -1 for no limit", hint="for instance pids=100"
        )
    return value


def size_text(size: float) -> str:
    """A number of bytes for people: ``64 MiB``, ``1.5 GiB``."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"
