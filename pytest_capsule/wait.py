"""Wait strategies: when is a container ready?

``from pytest_capsule import wait``, then ``wait.port(5432)``, ``wait.http("/health", port=8000)``, ``wait.log("up")``
and so on; or any callable that takes the container. ``until`` is the one deadline and the one loop that waits.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pytest_capsule.aio import in_thread
from pytest_capsule.errors import CapsuleError, ContainerExited, UsageError, WaitTimeout

if TYPE_CHECKING:
    import socket

__all__ = ["all_of", "any_of", "auntil", "command", "exited", "file", "healthy", "http", "log", "port", "until"]

# Between looks, where no event says when: ever longer, and the longer the more a look costs, since who waits and who is
# waited for share the processors.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05
_LONGEST_AFTER_A_GLANCE = 0.01
_PAUSE_OF_A_LOOK = 20
# One request may hang while its server starts anew; give up on it after this many seconds and ask again.
_LONGEST_REQUEST = 10.0
# A look always gets this long, so that even a timeout of 0 s can be met.
_SHORTEST_REQUEST = 0.01
_LOG_LINES = 20
_KILLED = 137
_LOOKS = 10


class Result(Protocol):
    """What a command in a container ended with."""

    @property
    def exit_code(self) -> int:
        """The command's exit code."""

    @property
    def stdout(self) -> str | bytes:
        """What it wrote to standard output."""

    @property
    def stderr(self) -> str | bytes:
        """What it wrote to standard error."""


class HealthResult(Protocol):
    """What one run of a HEALTHCHECK gave."""

    @property
    def exit_code(self) -> int:
        """The command's exit code; -1 where it could not be run."""

    @property
    def output(self) -> str:
        """What it printed."""


class Container(Protocol):
    """What the strategies ask of a container. Times are seconds."""

    @property
    def name(self) -> str:
        """Its name, for errors."""

    @property
    def status(self) -> str:
        """``running``, ``paused`` or ``exited``."""

    @property
    def exit_code(self) -> int | None:
        """The main process's exit code; ``None`` while it runs, and where there is no main process."""

    def connect(self, port: int, timeout: float | None = None) -> socket.socket:
        """A socket connected to a TCP port inside. Raises ``OSError``."""

    def logs(self, stream: Literal["both"] = "both") -> str:
        """What the main process has written until now."""

    def exec(self, cmd: list[str] | str, *, timeout: float | None = None) -> Result:
        """Run a command inside."""

    def exists(self, path: str) -> bool:
        """Whether there is a file at ``path`` inside."""

    def health(self) -> str | None:
        """``starting``, ``healthy``, ``unhealthy``, or ``None`` where the image has no HEALTHCHECK."""

    @property
    def health_log(self) -> Sequence[HealthResult]:
        """What the last runs of it gave."""

    def moment(self) -> int:
        """A number that changes when something happens: output, another health, the end."""

    def wait_change(self, moment: int, timeout: float) -> None:
        """Wait until something has happened since ``moment``, for ``timeout`` seconds."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a container: whether it is ``ready`` (the truth value of this), and what was ``seen``.

    ``final`` says that looking again cannot help.
    """

    ready: bool
    seen: str
    final: bool = False

    def __bool__(self) -> bool:
        return self.ready


class History:
    """What was seen while waiting, whenever that was something else than before; the last of it."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, str]] = deque(maxlen=_LOOKS)

    def note(self, seconds: float, seen: str) -> None:
        """Note what was seen after so many seconds of waiting."""
        if not self._looks or self._looks[-1][1] != seen:
            self._looks.append((seconds, seen))

    @property
    def last(self) -> str:
        """What was seen last."""
        return self._looks[-1][1]

    def __str__(self) -> str:
        before = [f"\n    from {seconds:.2f} s: {seen}" for seconds, seen in self._looks][:-1]
        return f"seen last: {self.last}" + ("\n  seen before:" if before else "") + "".join(before)


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment ``end`` of ``clock``, in seconds, up to which looking may take."""

    end: float
    clock: Callable[[], float]

    def left(self) -> float:
        """The seconds until then; a little more than 0 where it is past."""
        return max(self.end - self.clock(), _SHORTEST_REQUEST)

    def part(self, of: int) -> Deadline:
        """The end of the first of ``of`` equal parts of the time that is left."""
        return Deadline(self.clock() + self.left() / of, self.clock)


@runtime_checkable
class Strategy(Protocol):
    """A wait strategy; ``str()`` of it says what is waited for."""

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Look once, and not for longer than until ``deadline``."""


Condition = Strategy | Callable[[Container], object]


@dataclass(frozen=True, slots=True)
class Port:
    """Ready when something accepts connections on TCP ``number`` inside the container."""

    number: int

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Connect once."""
        try:
            container.connect(self.number, timeout=min(deadline.left(), _LONGEST_REQUEST)).close()
        except OSError as error:
            return Observation(False, f"{_reason(error)} on port {self.number}")
        return Observation(True, f"port {self.number} accepts connections")

    def __str__(self) -> str:
        return f"port {self.number}"


@dataclass(frozen=True, slots=True)
class Http:
    """Ready when ``GET path`` on ``port`` inside the container answers with one of ``statuses``."""

    path: str
    port: int
    statuses: frozenset[int]
    headers: tuple[tuple[str, str], ...] = ()

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Ask once; redirects are not followed."""
        # Here and not above: it brings in the whole of `email`, which a test session may never need.
        from http.client import HTTPException

        where = f"{self.path} on port {self.port}"
        try:
            status = self._ask(container, min(deadline.left(), _LONGEST_REQUEST))
        except OSError as error:
            return Observation(False, f"{_reason(error)} for {where}")
        except HTTPException as error:
            return Observation(False, f"no HTTP answer for {where}: {type(error).__name__} {error}".rstrip())
        wanted = "" if status in self.statuses else f", not {self._wanted()}"
        return Observation(status in self.statuses, f"status {status}{wanted} for {where}")

    def _ask(self, container: Container, timeout: float) -> int:
        from http.client import HTTPConnection

        connection = HTTPConnection("localhost", self.port)
        # The socket is the container's own: nothing here ever touches the network of the host.
        connection.sock = container.connect(self.port, timeout=timeout)
        try:
            connection.sock.settimeout(timeout)
            connection.request("GET", self.path, headers=dict(self.headers))
            with connection.getresponse() as response:
                return response.status
        finally:
            connection.close()

    def _wanted(self) -> str:
        return " or ".join(map(str, sorted(self.statuses)[:5]))

    def __str__(self) -> str:
        return f"HTTP {self._wanted()} from {self.path} on port {self.port}"


@dataclass(frozen=True, slots=True)
class Log:
    """Ready when ``pattern`` was found ``times`` times in what the main process wrote, both streams together."""

    pattern: re.Pattern[str]
    times: int = 1

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Count the matches."""
        text = container.logs("both")
        found = sum(1 for _ in self.pattern.finditer(text))
        last = text.rstrip().rpartition("\n")[2]
        seen = f"log matched {found} of {self.times} times; " + (f"last line: {last}" if last else "it is empty")
        return Observation(found >= self.times, seen)

    def __str__(self) -> str:
        times = f" {self.times} times" if self.times > 1 else ""
        return f"a log line that matches {self.pattern.pattern!r}{times}"


@dataclass(frozen=True, slots=True)
class Healthy:
    """Ready when the image's HEALTHCHECK says so."""

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Read the health. Raises ``UsageError`` where the image has no HEALTHCHECK."""
        health = container.health()
        if health is None:
            raise UsageError(
                f"wait.healthy(): the image of container {container.name} has no HEALTHCHECK",
                hint="add one to its Dockerfile, or wait for a port, an HTTP answer or a log line",
            )
        said = (
            f" (exit code {runs[-1].exit_code}: {_last_line(runs[-1].output)})"
            if (runs := container.health_log)
            else ""
        )
        return Observation(health == "healthy", f"health is {health}{said}")

    def __str__(self) -> str:
        return "a healthy HEALTHCHECK"


@dataclass(frozen=True, slots=True)
class Command:
    """Ready when the command ends with 0 inside the container; a list runs as is, a string through the shell."""

    cmd: tuple[str, ...] | str

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Run it once."""
        cmd = self.cmd if isinstance(self.cmd, str) else list(self.cmd)
        left = deadline.left()
        result = container.exec(cmd, timeout=None if math.isinf(left) else left)
        said = _last_line(result.stderr) or _last_line(result.stdout)
        return Observation(result.exit_code == 0, f"exit code {result.exit_code}" + (f": {said}" if said else ""))

    def __str__(self) -> str:
        return f"success of {self.cmd if isinstance(self.cmd, str) else ' '.join(self.cmd)!r}"


@dataclass(frozen=True, slots=True)
class File:
    """Ready when ``path`` exists inside the container."""

    path: str

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Look once."""
        found = container.exists(self.path)
        return Observation(found, f"{self.path} {'exists' if found else 'does not exist'}")

    def __str__(self) -> str:
        return f"file {self.path}"


@dataclass(frozen=True, slots=True)
class Exited:
    """Ready when the main process has ended with ``code``; ``None`` stands for any code."""

    code: int | None = 0

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Read the exit code; another one than was wanted is final."""
        status, code = container.status, container.exit_code  # in this order: who has exited has a code by then
        if code is None:
            return Observation(False, f"the container is {status}", final=status == "exited")
        ready = self.code is None or code == self.code
        return Observation(ready, f"exited with {code}", final=not ready)

    def __str__(self) -> str:
        return "exit" if self.code is None else f"exit with {self.code}"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Ready when all ``conditions`` are, at the same look."""

    conditions: tuple[Condition, ...]

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Look at one after the other, up to the first that is not ready."""
        seen: list[str] = []
        for condition in self.conditions:
            observation = observe(condition, container, deadline)
            if not observation:
                return observation
            seen.append(observation.seen)
        return Observation(True, "; ".join(seen))

    def __str__(self) -> str:
        return " and ".join(map(describe, self.conditions))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Ready when one of ``conditions`` is."""

    conditions: tuple[Condition, ...]

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Look at one after the other, up to the first that is ready."""
        missed: list[Observation] = []
        for position, condition in enumerate(self.conditions):
            # Each gets its share, or the first that hangs would take the time of the others.
            observation = observe(condition, container, deadline.part(len(self.conditions) - position))
            if observation:
                return observation
            missed.append(observation)
        return Observation(False, "; ".join(each.seen for each in missed), final=all(each.final for each in missed))

    def __str__(self) -> str:
        return " or ".join(map(describe, self.conditions))


def port(number: int) -> Port:
    """Wait until TCP port ``number`` inside the container accepts connections."""
    return Port(_port_number("wait.port", number))


def http(
    path: str, port: int = 80, status: int | Collection[int] = 200, headers: Mapping[str, str] | None = None
) -> Http:
    """Wait until ``GET path`` on ``port`` inside the container answers with ``status``, or one of several.

    ``headers`` go with the request. Redirects are answers like any other.
    """
    if not path.startswith("/") or any(character <= " " or character == "\x7f" for character in path):
        raise UsageError(f"wait.http: {path!r} is no path", hint="start it with '/' and write a space as %20")
    statuses = frozenset((status,) if isinstance(status, int) else status)
    return Http(path, _port_number("wait.http", port), statuses, tuple((headers or {}).items()))


def log(regex: str | re.Pattern[str], times: int = 1) -> Log:
    """Wait until ``regex`` was found ``times`` times in the logs; ``^`` and ``$`` match at each line."""
    if times < 1:
        raise UsageError(f"wait.log: times must be 1 or more, not {times}")
    try:
        return Log(re.compile(regex, re.MULTILINE) if isinstance(regex, str) else regex, times)
    except re.error as error:
        raise UsageError(f"wait.log: {regex!r} is no regular expression: {error}") from None


def healthy() -> Healthy:
    """Wait until the image's HEALTHCHECK reports the container healthy."""
    return Healthy()


def command(cmd: Sequence[str] | str) -> Command:
    """Wait until ``cmd`` ends with 0 inside the container; a list runs as is, a string through the image's shell."""
    if not cmd:
        raise UsageError("wait.command: the command is empty")
    return Command(cmd if isinstance(cmd, str) else tuple(cmd))


def file(path: str) -> File:
    """Wait until ``path`` exists inside the container."""
    return File(path)


def exited(code: int | None = 0) -> Exited:
    """Wait until the main process has ended with ``code``, or with any where ``None``."""
    return Exited(code)


def all_of(*conditions: Condition) -> AllOf:
    """Wait until every one of ``conditions`` is met."""
    return AllOf(_checked("wait.all_of", conditions))


def any_of(*conditions: Condition) -> AnyOf:
    """Wait until one of ``conditions`` is met."""
    return AnyOf(_checked("wait.any_of", conditions))


def until(
    container: Container,
    condition: Condition,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] | None = None,
) -> None:
    """Wait until ``condition`` is met, for ``timeout`` seconds; it is looked at once at least.

    ``condition`` is a strategy, or a callable that takes the container and returns something true, or ``None``, when
    it is ready; a ``CapsuleError`` out of it means "not yet", any other error goes through.
    Raises ``ContainerExited`` as soon as the main process has ended and the condition can no longer be met,
    ``WaitTimeout`` at the deadline, ``UsageError`` for a condition that makes no sense here.
    """
    _checked("wait", (condition,))
    began = clock()
    deadline = Deadline(began + timeout, clock)
    pause = _FIRST_PAUSE
    history = History()
    while True:
        moment = container.moment() if sleep is None else 0
        looked = clock()
        observation = observe(condition, container, deadline)
        if observation:
            return
        now = clock()
        left = deadline.end - now
        history.note(now - began, observation.seen)
        if observation.final:
            raise _exited(container, condition, history)
        if left <= 0:
            raise _timed_out(container, condition, timeout, history)
        if sleep is None:  # output, a HEALTHCHECK or the end wake us at once; for what no event tells of, look again
            container.wait_change(moment, min(pause, left))
        else:
            sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE, max(_LONGEST_AFTER_A_GLANCE, _PAUSE_OF_A_LOOK * (now - looked)))


async def auntil(container: Container, condition: Condition, timeout: float) -> None:
    """``until``, for ``timeout`` seconds, awaited: under asyncio, trio or anyio, with the event loop going on."""
    given_up = threading.Event()

    def clock() -> float:
        if given_up.is_set():
            raise TimeoutError("nobody waits any more")
        return time.monotonic()

    await in_thread(lambda: until(container, condition, timeout, clock=clock), given_up.set)


def observe(condition: Condition, container: Container, deadline: Deadline) -> Observation:
    """Look once at ``condition``: the last look is final once the main process, or the whole container, has ended."""
    # Read before the look: what a process did right before its end must still count.
    ended = container.exit_code is not None or container.status == "exited"
    try:
        observation = _look(condition, container, deadline)
    except UsageError:
        raise
    except CapsuleError as error:
        observation = Observation(False, error.message)
    if ended and not observation and not isinstance(condition, (Exited, AllOf, AnyOf)):
        return Observation(False, observation.seen, final=True)
    return observation


def _look(condition: Condition, container: Container, deadline: Deadline) -> Observation:
    if isinstance(condition, Strategy):
        return condition.check(container, deadline)
    value = condition(container)
    return Observation(value is None or bool(value), f"it returned {value!r}")


def _exited(container: Container, condition: Condition, history: History) -> ContainerExited:
    code, end = container.exit_code, "exited with {}"
    if code is None:  # it had no main process, and was killed
        code, end = _KILLED, "was killed"
    message = f"container {container.name} {end.format(code)} while waiting for {describe(condition)}"
    return ContainerExited(
        f"{message}\n  {history}", container=container.name, exit_code=code, logs=_log_tail(container)
    )


def _timed_out(container: Container, condition: Condition, timeout: float, history: History) -> WaitTimeout:
    message = f"container {container.name} was not ready within {timeout:g} s: waited for {describe(condition)}"
    return WaitTimeout(
        f"{message}\n  {history}",
        container=container.name,
        timeout=timeout,
        seen=history.last,
        logs=_log_tail(container),
    )


def _log_tail(container: Container) -> str:
    return "\n".join(container.logs("both").splitlines()[-_LOG_LINES:])


def describe(condition: Condition) -> str:
    """What is waited for, in words."""
    if isinstance(condition, Strategy):
        return str(condition)
    return getattr(condition, "__qualname__", "") or repr(condition)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    # The plain words of the errno: `strerror` may name the port and the container once more.
    return os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__


def _last_line(output: str | bytes) -> str:
    text = output if isinstance(output, str) else output.decode("utf-8", "replace")
    return text.rstrip().rpartition("\n")[2]


def _port_number(caller: str, number: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
        raise UsageError(f"{caller}: {number!r} is no port; a port is a number from 1 to 65535")
    return number


def _checked(caller: str, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    if not conditions:
        raise UsageError(f"{caller}: nothing to wait for")
    for condition in conditions:
        if not isinstance(condition, Strategy) and not callable(condition):
            raise UsageError(
                f"{caller}: {condition!r} is no wait strategy",
                hint="use one of pytest_capsule.wait, or a callable that takes the container",
            )
    return conditions
