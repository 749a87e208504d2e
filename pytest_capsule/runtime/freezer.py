"""Processes stopped in their tracks without a signal: the freezer of control groups v2 (cgroup-v2.rst, "freezer").

Only v2's: what v1's has frozen cannot be killed, so a container of a killed pytest would stay for ever.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pytest_capsule.runtime import cgroups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_PATIENCE = 2.0  # seconds until all is stopped, also what is in a system call
_PAUSE = 0.001


class Freezer:
    """A group for the processes of one container, init left out: it goes on to answer."""

    def __init__(self, place: Path, label: str) -> None:
        """Make it beneath the group ``place``; ``OSError`` where this user may not."""
        self._directory = cgroups.make_beneath(place, f"{label}-frozen")

    def freeze(self, processes: Callable[[], Iterable[int]]) -> None:
        """Stop all that ``processes`` lists, by the host's ids, and what they start meanwhile.

        ``OSError`` where this user may not move them, or they do not stop; they go on then.
        """
        cgroups.write(self._directory / "cgroup.freeze", "1")
        deadline = time.monotonic() + _PATIENCE
        try:
            moved: set[int] = set()
            while new := set(processes()) - moved:  # what was moved is frozen, and starts nothing any more
                if time.monotonic() > deadline:  # who forks without end may always be ahead
                    raise TimeoutError(f"not all frozen after {_PATIENCE} s")
                for pid in new:
                    with contextlib.suppress(ProcessLookupError):
                        cgroups.write(self._directory / "cgroup.procs", str(pid))
                moved |= new
            self._wait(deadline)
        except OSError:
            self.thaw()
            raise

    def _wait(self, deadline: float) -> None:
        while "frozen 1" not in (self._directory / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not frozen after {_PATIENCE} s")
            time.sleep(_PAUSE)

    def thaw(self) -> None:
        """Let them go on."""
        cgroups.write(self._directory / "cgroup.freeze", "0")

    def remove(self) -> None:
        """Remove the group of a container whose processes are gone."""
        cgroups.remove(self._directory)
