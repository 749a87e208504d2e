"""The main process of a container: what it is for, its output, its health, and its end."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, overload

from pytest_capsule.aio import in_thread
from pytest_capsule.errors import UsageError
from pytest_capsule.runtime.command_access import CommandAccess, feed_and_source
from pytest_capsule.runtime.freezer import Freezer
from pytest_capsule.runtime.health import Health, HealthResult
from pytest_capsule.runtime.logs import STREAMS, Log, LogPump
from pytest_capsule.runtime.process import PIPE, Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from pytest_capsule.oci.config import Healthcheck

_SIGNAL = re.compile(r"(?P<number>\d{1,3})|(SIG)?(?P<name>[A-Z][A-Z\d]*)(?P<offset>(?<=RTMIN)\+\d+|(?<=RTMAX)-\d+)?")
_UNNAMED = {"SIGSTKFLT": 16}  # which Python knows from 3.11 on
_GLANCE = 0.05  # seconds: how soon a wait that was given up ends


class MainProcess(CommandAccess):
    """A sandbox with a main process, which is one of the commands in it."""

    def __init__(self, *, pump: LogPump, healthcheck: Healthcheck | None, stop_signal: str, **sandbox: Any) -> None:
        self._pump = pump
        self._stop_signal = stop_signal
        self._healthcheck = healthcheck
        self._main: Process | None = None
        self._main_command: tuple[Sequence[str], dict[str, Any]] | None = None
        self._log: Log | None = None
        self._health: Health | None = None
        self._freezer: Freezer | None = None
        self._pausing = threading.RLock()
        super().__init__(**sandbox)

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: Any = None,
        stdout: int = PIPE,
        stderr: int = PIPE,
        tty: bool = False,
        window: tuple[int, int] | None = None,
    ) -> None:
        """Start the main process.

        Its output becomes the container's logs, or goes to descriptors of the caller (``stdout`` and ``stderr``); with
        ``tty`` it is at ``main.terminal``, which has ``window`` rows and columns from the start.
        """
        options = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "tty": tty, "window": window}
        self._main_command = (command, options)
        feed, source = feed_and_source(stdin)
        with contextlib.ExitStack() as given:
            if feed is not None:  # as a file: nobody has to wait until it is read
                source = given.enter_context(_memory_file(feed))
            process = self._begin(command, source, stdout, stderr, text=False, tty=tty, window=window)
        self._main = process
        if (outputs := process.detach_outputs()) is not None:
            self._log = Log(*outputs, process.fileno())
            self._pump.watch(self._log)
        if self._healthcheck is not None:
            self._health = Health(self._healthcheck, self._probe, self._wake)

    @property
    def main(self) -> Process | None:
        """The main process, ``None`` for a container that is only there for ``exec``."""
        return self._main

    @overload
    def logs(self, stream: str = "both", *, timestamps: bool = False, follow: Literal[False] = False) -> str: ...

    @overload
    def logs(self, stream: str = "both", *, timestamps: bool = False, follow: Literal[True]) -> Iterator[str]: ...

    def logs(self, stream: str = "both", *, timestamps: bool = False, follow: bool = False) -> str | Iterator[str]:
        """What the main process has printed until now: ``stdout``, ``stderr``, or ``both`` in the order it came.

        With ``timestamps`` each line has before it when it came, as ``docker logs -t`` prints it. ``follow`` gives an
        iterator of lines instead, from the first on, that waits for more until the process has ended. Of what a process
        prints the latest is kept, in 64 MiB of memory.
        """
        _known(stream)
        if follow:
            if timestamps:
                raise UsageError("logs(): it is timestamps or follow, not both", hint="a line that comes now has now's")
            lines = iter(()) if self._log is None else self._log.follow(stream)
            return (line.decode("utf-8", "replace") for line in lines)
        if self._log is None:
            return ""
        kept = self._log.stamped(stream) if timestamps else self._log.data(stream)
        return kept.decode("utf-8", "replace")

    def moment(self) -> int:
        """A number that changes with everything that may make the container ready: output, its health, its end."""
        return 0 if self._log is None else self._log.moment()

    def wait_change(self, moment: int, timeout: float) -> None:
        """Wait until something has happened since ``moment``, for ``timeout`` seconds."""
        if self._log is None:
            time.sleep(timeout)
        else:
            self._log.wait_change(moment, timeout)

    def _wake(self) -> None:
        if self._log is not None:
            self._log.wake()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the main process has exited, for ``timeout`` seconds; returns Docker's exit code.

        ``TimeoutError`` when it still runs then.
        """
        if self._main is None:
            raise UsageError(f"container {self.name} has no main process to wait for")
        try:
            self._main.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"container {self.name} still runs after {timeout} s") from None
        code = self._main.exit_code
        assert code is not None
        return code

    async def await_exit(self, timeout: float | None = None) -> int:
        """``wait`` for ``timeout`` seconds, awaited: the event loop of asyncio, trio or anyio goes on meanwhile."""
        given_up = threading.Event()
        deadline = math.inf if timeout is None else time.monotonic() + timeout

        def wait() -> int:
            while not given_up.is_set() and time.monotonic() + _GLANCE < deadline:
                with contextlib.suppress(TimeoutError):
                    return self.wait(_GLANCE)
            return self.wait(0 if timeout is None else max(0.0, deadline - time.monotonic()))

        return await in_thread(wait, given_up.set)

    async def alogs(self, stream: str = "both") -> AsyncIterator[str]:
        """``logs(follow=True)`` for ``async for``: each line as it comes, until the process has ended."""
        log, given_up = self._log, threading.Event()
        lines = iter(()) if log is None else log.follow(_known(stream), given_up.is_set)

        def give_up() -> None:
            given_up.set()
            if log is not None:
                log.wake()

        while (line := await in_thread(lambda: next(lines, None), give_up)) is not None:
            yield line.decode("utf-8", "replace")

    @property
    def exit_code(self) -> int | None:
        """The main process' exit code as Docker gives it (128 + n for signal n); ``None`` while it runs."""
        return None if self._main is None else self._main.exit_code

    @property
    def killed_by(self) -> str | None:
        """The name of the signal that ended the main process (``SIGKILL``); else ``None``."""
        returncode = None if self._main is None else self._main.poll()
        if returncode is None or returncode >= 0:
            return None
        with contextlib.suppress(ValueError):
            return signal.Signals(-returncode).name
        return f"signal {-returncode}"  # a real-time one

    @property
    def status(self) -> str:
        """How it stands: ``created``, ``running``, ``paused``, ``exited`` or ``removed``.

        ``created``: the main process could not be started; ``exited``: it has, or init was killed; ``removed``: closed.
        """
        if self._ended:
            return "removed"
        if self.is_gone():
            return "exited"
        if self._paused:
            return "paused"
        if self._main is None and self._main_command is not None:
            return "created"
        return "exited" if self.exit_code is not None else "running"

    def stop(self, timeout: float = 10) -> None:
        """Send the image's stop signal to the main process, SIGKILL after ``timeout`` seconds; nothing runs on."""
        if self._main is not None and self.exit_code is None:
            self.unpause()
            self._main.send_signal(_signal_number(self._stop_signal or "SIGTERM"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._main.wait(timeout)
        self._signal_all(signal.SIGKILL)
        if self._main is not None:
            self._main.wait()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal, by name or number (``"SIGHUP"``, ``"HUP"``, 1), to the main process, unless it has ended.

        A paused container goes on by it, unless its image has a STOPSIGNAL and this is another. ``UsageError`` where
        there is no such signal, or no main process.
        """
        if self._main is None:
            raise UsageError(f"container {self.name} has no main process to signal")
        number = _signal_number(signal)
        self._main.send_signal(number)
        if not self._stop_signal or number == _signal_number(self._stop_signal):  # moby, killWithSignal
            self.unpause()

    def restart(self, timeout: float = 10) -> None:
        """Stop the main process, as ``stop`` with its ``timeout`` in seconds, and start it again, on the same files."""
        if self._main_command is None:
            raise UsageError(f"container {self.name} has no main process to restart")
        self.stop(timeout)
        command, options = self._main_command
        self._release_main()
        self.start(command, **options)

    def pause(self) -> None:
        """Stop every process inside in its tracks; files can still be reached, and nothing new can run.

        By the freezer of control groups v2 where this user may use it, so that no process notices. Elsewhere by
        SIGSTOP, which a parent inside is told of, and which ``unpause`` also ends for who had stopped itself.
        """
        self._check_open()
        with self._pausing:
            if not self._paused:
                self._halt()
                self._paused = True

    def _halt(self) -> None:
        try:
            self._frozen().freeze(lambda: self._table().pids()[1:])
        except OSError:
            self._freezer = None
            self._signal_all(signal.SIGSTOP)

    @contextlib.contextmanager
    def stilled(self) -> Iterator[None]:
        """While the block runs, what runs inside stands still as in a pause, so that its files agree with each other.

        Nothing is done where nothing runs, or all is paused already.
        """
        with self._pausing:
            halts = not self._paused and self._signal_all(None)
            if halts:
                self._halt()
            try:
                yield
            finally:
                if halts and not self._ended:
                    self._resume()

    def _frozen(self) -> Freezer:
        if self._cgroups is None:
            raise FileNotFoundError(errno.ENOENT, "no engine made it")
        place = self._restraint.unified() if self._restraint is not None else None
        freezer = Freezer(place or self._cgroups.unified(), self.id[:12])
        if self._freezer is None:
            self._cleanup.callback(freezer.remove)
        self._freezer = freezer
        return freezer

    def unpause(self) -> None:
        """Let every process go on."""
        with self._pausing:
            if self._paused:
                self._resume()
                self._paused = False

    def _resume(self) -> None:
        if self._freezer is not None:
            self._freezer.thaw()
        else:
            self._signal_all(signal.SIGCONT)

    def health(self) -> str | None:
        """``starting``, ``healthy`` or ``unhealthy`` by the image's HEALTHCHECK; ``None`` without one.

        It is run from the main process' start on, or, without one, from when this is first asked for.
        """
        if self._health is None and not self._ended and self._healthcheck is not None:
            self._health = Health(self._healthcheck, self._probe, self._wake)
        return None if self._health is None else self._health.status

    @property
    def health_log(self) -> list[HealthResult]:
        """The last five runs of the HEALTHCHECK, the latest at the end."""
        return [] if self._health is None else list(self._health.results)

    def _probe(self, command: list[str] | str, timeout: float) -> tuple[int, str]:
        result = self.exec(command, timeout=timeout)
        return result.exit_code, result.stdout + result.stderr

    def _release_main(self) -> None:
        if self._health is not None:
            self._health.close()
        if self._main is not None:
            self._main.poll()
        if self._log is not None:  # before the descriptor of the process' end is closed, and anybody else's
            self._pump.forget(self._log)
        if self._main is not None:
            self._main.close()
        if self._health is not None and self.is_gone():
            self._health.join()
        self._health = None

    def _release(self) -> None:
        self._release_main()
        super()._release()


def _signal_number(name: str | int) -> int:
    """``SIGTERM``, ``TERM``, ``15``, ``RTMIN+3`` and ``RTMAX-3`` as a number, as Docker takes them."""
    text = str(int(name)) if isinstance(name, int) else name  # an enum's own text is its name
    match = _SIGNAL.fullmatch(text.upper())
    number = 0
    if match is not None and match["number"]:
        number = int(match["number"])
    elif match is not None:
        base = "SIG" + match["name"]
        number = _UNNAMED.get(base) or int(getattr(signal, base, 0)) + int(match["offset"] or 0)
    if not 0 < number < signal.NSIG:
        raise UsageError(f"no such signal: {name!r}")
    return number


def _known(stream: str) -> str:
    if stream not in STREAMS:
        raise UsageError(f"logs(stream={stream!r}): it is one of {', '.join(STREAMS)}")
    return stream


@contextlib.contextmanager
def _memory_file(content: str | bytes) -> Iterator[int]:
    fd = os.memfd_create("stdin")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
