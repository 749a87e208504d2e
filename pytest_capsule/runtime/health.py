"""HEALTHCHECK: the image's own command that says whether what it runs is well, carried out in the container.

As Docker does it, but for the time until it is healthy for the first time: there Docker waits for a whole interval (30
seconds) before it looks at all, and here it is looked at once, and again after ever longer pauses. Failures count once
an interval, so a container is unhealthy no sooner than with Docker.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.errors import CapsuleError, ExecTimeout

if TYPE_CHECKING:
    from pytest_capsule.oci.config import Healthcheck

# Docker's defaults, in seconds: moby, daemon/health.go
_INTERVAL, _TIMEOUT, _RETRIES = 30.0, 30.0, 3
_KEPT = 5
_OUTPUT = 4096
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class HealthResult:
    """One run of the check: when it began (seconds since the epoch), its exit code, the end of what it printed.

    ``exit_code`` is -1 for one that took too long or could not be run, and ``output`` says so.
    """

    time: float
    exit_code: int
    output: str


class Health:
    """Checks a container again and again, in a thread of its own, until it is closed."""

    def __init__(
        self,
        check: Healthcheck,
        run: Callable[[list[str] | str, float], tuple[int, str]],
        tell: Callable[[], None],
    ) -> None:
        self.status = "starting"
        self.results: deque[HealthResult] = deque(maxlen=_KEPT)
        self._command = list(check.test[1:]) if check.test[0] == "CMD" else check.test[1]
        self._interval = check.interval / 1e9 or _INTERVAL
        self._timeout = check.timeout / 1e9 or _TIMEOUT
        self._start_period = check.start_period / 1e9
        self._retries = check.retries or _RETRIES
        self._run = run
        self._tell = tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="capsule-health", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        started = counted = time.monotonic()
        failures, pause = 0, _FIRST_PAUSE
        while not self._over.is_set():
            result = self._look()
            if self._over.is_set():
                return
            now = time.monotonic()
            self.results.append(result)
            if result.exit_code == 0:
                self.status, failures, counted = "healthy", 0, now
            elif now - counted >= self._interval or self.status == "healthy":
                counted = now
                failures += now - started >= self._start_period
                if failures >= self._retries:
                    self.status = "unhealthy"
            self._tell()
            self._over.wait(pause if self.status == "starting" else self._interval)
            pause = min(2 * pause, _LONGEST_PAUSE, self._interval)

    def _look(self) -> HealthResult:
        began = time.time()
        try:
            code, output = self._run(self._command, self._timeout)
        except ExecTimeout:
            return HealthResult(began, -1, f"it did not end within {self._timeout:g} s")
        except (CapsuleError, OSError) as error:
            return HealthResult(began, -1, str(error))
        return HealthResult(began, code, output[-_OUTPUT:])

    def close(self) -> None:
        """Look no more; one that is running is left to end with its container."""
        self._over.set()

    def join(self) -> None:
        """Wait for the thread, when nothing that it waits for is left."""
        self._thread.join()
