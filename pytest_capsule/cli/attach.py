"""The main process of a container joined to our own streams, with its signals and its terminal.

Where a stream of ours is a file or a pipe, the process has the very descriptor and no byte is copied. A terminal of
ours is never handed over: who holds it could change its modes and read what is typed. There we copy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import termios
import tty as terminal_modes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.runtime.process import DEVNULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.process import Process

_CHUNK = 1 << 16
_PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_PATIENCE = 3  # docker/cli: "got 3 SIGTERM/SIGINTs, forcefully exiting"


def attach(container: Container, *, interactive: bool, tty: bool) -> int:
    """Start the main process with our own streams and wait until it has ended; returns its exit code.

    Signals that we get are passed on to it. With ``tty`` it has a terminal, ours is in raw mode meanwhile (if
    ``interactive``), and the one is as large as the other.
    """
    with _Signals() as signals, contextlib.ExitStack() as stack:
        streams = _Streams(stack) if tty else _Streams.joined(stack, interactive=interactive)
        if interactive and tty:
            stack.enter_context(_raw(0))
        container.start(
            container.command,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            tty=tty,
            window=_window_size() if tty else None,
        )
        streams.given.close()
        process = container.main
        assert process is not None
        if process.terminal is not None:
            streams.copies = _terminal_copies(process.terminal, interactive=interactive)
        join = _Join(container, process, signals, streams.copies)
        join.until_ended()
        container.stop()  # what the main process has left behind could hold its terminal or a pipe open
        join.drain()
        code = container.exit_code
        assert code is not None
        return code


def attach_command(container: Container, command: Sequence[str]) -> int:
    """Run a command beside the main process, at a terminal that ours is joined to; returns its exit code."""
    with _Signals() as signals, container.popen(command, tty=True, window=_window_size()) as process, _raw(0):
        assert process.terminal is not None
        join = _Join(container, process, signals, _terminal_copies(process.terminal, interactive=True))
        join.until_ended()
        process.kill_group()
        join.flush()  # and not to the end: what it has left behind may hold the terminal open
        code = process.exit_code
        assert code is not None
        return code


class _Streams:
    """What the process gets as its streams, and what must be copied for that; ``given`` is only the process'."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stdin = self.stdout = self.stderr = DEVNULL
        self.copies: list[_Copy] = []
        self.given = stack.enter_context(contextlib.ExitStack())

    @classmethod
    def joined(cls, stack: contextlib.ExitStack, *, interactive: bool) -> _Streams:
        """Each is our own descriptor, or a pipe where that is a terminal."""
        streams = cls(stack)
        if interactive:
            streams.stdin = streams._lend(0, stack)
        streams.stdout = streams._lend(1, stack)
        streams.stderr = streams._lend(2, stack)
        return streams

    def _lend(self, fd: int, stack: contextlib.ExitStack) -> int:
        if not os.isatty(fd):
            return fd
        read, write = os.pipe()
        near, far = (write, read) if fd == 0 else (read, write)
        file = stack.enter_context(os.fdopen(near, "wb" if fd == 0 else "rb", 0))
        os.set_blocking(near, False)
        self.given.callback(os.close, far)
        self.copies.append(_Copy(fd, near, inward=True, end=file.close) if fd == 0 else _Copy(near, fd, inward=False))
        return far


def _terminal_copies(terminal: int, *, interactive: bool) -> list[_Copy]:
    os.set_blocking(terminal, False)
    outward = _Copy(terminal, 1, inward=False)
    return [outward, _Copy(0, terminal, inward=True)] if interactive else [outward]


def _window_size() -> tuple[int, int] | None:
    for fd in (1, 0, 2):
        with contextlib.suppress(OSError):
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
            return rows, columns
    return None


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """A terminal that passes on every key, and is what it was when the block ends; nothing typed ahead is lost."""
    before = termios.tcgetattr(fd)
    try:
        terminal_modes.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Signals:
    """The signals that arrive while a process runs, readable at ``fd``: one byte each, its number."""

    def __init__(self) -> None:
        self.fd = -1

    def __enter__(self) -> _Signals:
        self.fd, self._written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handlers = {number: signal.getsignal(number) for number in (*_PASSED_ON, signal.SIGWINCH)}
        for number, handler in self._handlers.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # a handler must exist for the descriptor to be written
        self._wakeup = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._written)

    def arrived(self) -> bytes:
        """Those that arrived since the last call, in order."""
        try:
            return os.read(self.fd, 512)
        except BlockingIOError:
            return b""


@dataclass
class _Copy:
    """One direction: what is read from ``source`` is written to ``sink``; ``pending`` was read and not written yet."""

    source: int
    sink: int
    inward: bool
    """From our input to the process, whose end may not hold up ours."""
    end: Callable[[], None] | None = None
    """Tells the sink that there is no more."""
    pending: bytes = b""
    ended: bool = False

    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and the event that it needs next; ``None`` when it is done."""
        if self.pending:
            return self.sink, select.POLLOUT
        return None if self.ended else (self.source, select.POLLIN)

    def go_on(self) -> None:
        """Write what is pending, or read more: what can be done without waiting."""
        try:
            if self.pending:
                self.pending = self.pending[os.write(self.sink, self.pending) :]
                return
            self.pending = os.read(self.source, _CHUNK)
            self.ended = not self.pending
        except BlockingIOError:
            return
        except OSError as error:
            # Reading: nobody has the terminal open any more (EIO). Writing inward: the process takes no more.
            if not self.inward and (self.pending or error.errno != errno.EIO):
                raise
            self.pending, self.ended = b"", True
        if self.ended and self.end is not None:
            self.end()


class _Join:
    """The loop that copies, passes signals on, and sees the process end."""

    def __init__(self, container: Container, process: Process, signals: _Signals, copies: list[_Copy]) -> None:
        self._container = container
        self._process = process
        self._signals = signals
        self._copies = copies
        self._asked = 0

    def until_ended(self) -> None:
        """Returns when the process has ended."""
        while self._process.poll() is None:
            self._step([self._process.fileno(), self._signals.fd])

    def drain(self) -> None:
        """Copy the rest of what it wrote."""
        self._copies = [copy for copy in self._copies if not copy.inward]
        while any(copy.waits_for() for copy in self._copies):
            self._step([self._signals.fd])

    def flush(self) -> None:
        """Copy what it wrote until now."""
        self._copies = [copy for copy in self._copies if not copy.inward]
        while self._step([self._signals.fd], timeout=0):
            pass

    def _step(self, others: list[int], timeout: float | None = None) -> bool:
        poll = select.poll()
        for fd in others:
            poll.register(fd, select.POLLIN)
        wanted: dict[int, int] = {}
        for copy in self._copies:
            if (need := copy.waits_for()) is not None:
                wanted[need[0]] = wanted.get(need[0], 0) | need[1]
        for fd, events in wanted.items():
            poll.register(fd, events)
        ready = dict(poll.poll(timeout))
        for copy in self._copies:
            need = copy.waits_for()
            if need is not None and ready.get(need[0], 0) & (need[1] | select.POLLHUP | select.POLLERR):
                copy.go_on()
        if self._signals.fd in ready:
            self._pass_on(self._signals.arrived())
        return bool(ready)

    def _pass_on(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                if (size := _window_size()) is not None:
                    self._process.resize(*size)
                continue
            self._asked += number in (signal.SIGINT, signal.SIGTERM)
            if self._asked >= _PATIENCE:
                self._container.kill()
            else:
                self._process.send_signal(number)
