"""What holds a container to its limits: its control group, and where the host allows none, a watcher."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import TYPE_CHECKING

from pytest_capsule.errors import CapsuleError
from pytest_capsule.runtime.cgroups import Cgroup
from pytest_capsule.runtime.limits import Limit, Limits, size_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_capsule.runtime.cgroups import Cgroups

    Look = Callable[[], tuple[int, int]]

_PERIOD = 0.05  # seconds between two looks of the watcher; more where a look is slow
_SHARE = 10  # and at most this part of one processor's time for looking


class Restraint:
    """The limits of one container: in force before any of its commands runs, ended when it is gone.

    ``look`` gives its memory in bytes and its number of processes, and ``kill`` ends them all; both are for limits that
    the kernel does not enforce here.
    """

    def __init__(self, limits: Limits, cgroups: Cgroups, *, label: str, look: Look, kill: Callable[[], object]) -> None:
        self.values = limits
        self.limits: dict[str, Limit] = {}
        self._cgroups = cgroups
        self._cgroup = Cgroup({})
        self._label = label
        self._killed_for: str | None = None
        self._look = look
        self._kill = kill
        self._end = threading.Event()
        self._watcher: threading.Thread | None = None

    def enforce(self, init: int) -> None:
        """Begin; ``init`` is the host's id of the container's PID 1. ``close`` takes back what of it was done."""
        self._cgroup, refused = self._cgroups.enclose(init, self._label, self.values)
        for name, value in self.values.asked().items():
            if name in refused:
                means = _bind_processors(init, value) if name == "cpus" else _MEANS[name]
                error = refused[name]
                self.limits[name] = Limit(value, "advisory", f"{error.filename}: {error.strerror}; {means}")
            else:
                self.limits[name] = Limit(value, "enforced", f"cgroup {self._cgroup.groups[name].directory}")
        if refused.keys() & {"memory", "pids"}:
            watcher = threading.Thread(target=self._watch, name=f"capsule-limits-{self._label}", daemon=True)
            watcher.start()
            self._watcher = watcher

    def message(self) -> dict[str, object]:
        """What init must know: whether it is in a group of its own, and has a memory limit, and how large the writable
        layer may get."""
        return {
            "cgroup": bool(self._cgroup.groups),
            "memory": self.values.memory is not None,
            "writable": self.values.memory,
        }

    @property
    def killed_for(self) -> str | None:
        """``memory`` or ``pids`` when that limit has cost a process its life."""
        if self._killed_for is None and self._cgroup.oom_kills():
            self._killed_for = "memory"
        return self._killed_for

    def describe(self) -> str | None:
        """What ``killed_for`` means, for people."""
        if self.killed_for == "memory":
            return f"out of memory (limit {size_text(self.values.memory or 0)})"
        return f"too many processes (limit {self.values.pids})" if self.killed_for else None

    def unified(self) -> Path | None:
        """The v2 control group that holds the container, if one does."""
        return self._cgroup.unified()

    def usage(self) -> dict[str, float]:
        """``memory``, ``cpu`` and ``pids`` as far as a control group accounts for them, and ``memory_limit``."""
        found = self._cgroup.usage()
        if self.values.memory is not None:
            found["memory_limit"] = self.values.memory
        return found

    def _is_advisory(self, name: str) -> bool:
        return name in self.limits and self.limits[name].how == "advisory"

    def _watch(self) -> None:
        pause = _PERIOD
        while not self._end.wait(pause):
            began = time.monotonic()
            memory, pids = self._look()
            over = None
            if self._is_advisory("pids") and pids > (self.values.pids or 0):
                over = "pids"
            if self._is_advisory("memory") and memory > (self.values.memory or 0):
                over = "memory"
            if over is not None:
                self._killed_for = self._killed_for or over  # first: who sees the death may ask at once
                try:
                    self._kill()
                except (CapsuleError, OSError):  # closed meanwhile
                    return
            pause = max(_PERIOD, _SHARE * (time.monotonic() - began))

    def stop(self) -> None:
        """End the watcher: for when the container's processes are gone."""
        self._end.set()
        if self._watcher is not None:
            self._watcher.join()

    def close(self) -> None:
        """Remove the control group; ``killed_for`` stays known."""
        self.stop()
        _ = self.killed_for
        self._cgroups.remove(self._label)


_MEANS = {
    "memory": "the processes are watched, and killed when they hold more; the writable layer ends at that size",
    "pids": "the processes are counted now and then, and killed when there are more",
}


def _bind_processors(init: int, cpus: float) -> str:
    there = sorted(os.sched_getaffinity(0))
    count = math.ceil(cpus)
    try:
        first = int.from_bytes(os.urandom(4), "little") % len(there)  # not the same for every container
        os.sched_setaffinity(init, [*there, *there][first : first + count])
    except OSError as error:
        return f"and binding it to {count} of {len(there)} processors failed too: {error.strerror}"
    return f"bound to {count} of {len(there)} processors, which a program inside can undo"
