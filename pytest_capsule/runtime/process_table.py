"""The processes of a container, as the host sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psutil

Answer = TypeVar("Answer")


class ProcessTable:
    """What runs in a container at one moment; a process that goes meanwhile is left out of an answer."""

    def __init__(self, init: int) -> None:
        """``init`` is the id of its PID 1, as the host counts."""
        try:
            process = psutil.Process(init)
            self.processes = [process, *process.children(recursive=True)]
        except (psutil.NoSuchProcess, ValueError):  # ValueError: -1, which is none
            self.processes = []

    def pids(self) -> list[int]:
        """Their ids, as the host counts, that of init first."""
        return [process.pid for process in self.processes]

    def find(self, inside: int) -> int | None:
        """The id, as the host counts, of the one that has the id ``inside`` in the container."""
        for process in self.processes:
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status") as status:
                if inside == next(int(line.split()[-1]) for line in status if line.startswith("NSpid:")):
                    return process.pid
        return None

    def rows(self) -> list[dict[str, Any]]:
        """``pid``, ``name``, ``command``, ``status`` and ``user`` of each, init first."""
        return _each(self.processes, _row)

    def usage(self) -> dict[str, float]:
        """``memory`` in bytes that they hold alone, ``cpu`` in seconds since their start, ``pids``, all but init."""
        found = _each(self.processes, lambda process: (_own_memory(process), _seconds(process)))
        memory, cpu = (sum(figures) for figures in zip(*found, strict=True)) if found else (0, 0.0)
        return {"memory": memory, "cpu": cpu, "pids": max(0, len(found) - 1)}

    def held(self) -> tuple[int, int]:
        """The memory in bytes that all but init hold alone, and how many they are."""
        found = _each(self.processes[1:], _own_memory)
        return sum(found), len(found)


def _each(processes: Sequence[psutil.Process], ask: Callable[[psutil.Process], Answer]) -> list[Answer]:
    answers = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            answers.append(ask(process))
    return answers


def _row(process: psutil.Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "name": process.name(),
        "command": process.cmdline(),
        "status": process.status(),
        "user": process.uids().real,
    }


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _own_memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.AccessDenied:  # another user's: what it shares cannot be told from what it holds
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))
