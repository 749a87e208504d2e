"""A command in a container, seen from the test: what ``subprocess.Popen`` is for a command on the host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from pytest_capsule._linux import channel
from pytest_capsule.errors import CommandNotFound, ContainerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT
_STREAMS = ("stdin", "stdout", "stderr")
_CHUNK = 1 << 16
_TERMINAL_CHUNK = 4096  # what a read of a terminal gives at most
_HASTE = 5  # seconds for init to answer where nobody may be kept waiting
PATIENCE = 120.0
"""Seconds for a container's init to begin with what it is asked: one that was taken over might never answer."""
Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True, slots=True)
class ExecResult(Generic[Text]):
    """What a command gave: Docker's exit code (128 + n for signal n), and its outputs as ``str``, or ``bytes``."""

    exit_code: int
    stdout: Text
    stderr: Text


def docker_exit_code(returncode: int) -> int:
    """``subprocess``'s code as Docker and every shell print it: 128 + n for a command that signal n has ended."""
    return 128 - returncode if returncode < 0 else returncode


class Process:
    """A running command, a look-alike of ``subprocess.Popen``: same members, same meanings.

    ``pid`` counts as the container counts. ``terminal`` is the descriptor of its pseudo-terminal where it has one.
    ``lost`` says that it ended because the container did. ``timeout`` is for the start, ``TimeoutExpired`` after it.
    """

    def __init__(
        self,
        requests: socket.socket,
        args: Sequence[str],
        *,
        stdin: int | IO[Any] | None,
        stdout: int | IO[Any] | None,
        stderr: int | IO[Any] | None,
        env: Mapping[str, str],
        user: str,
        workdir: str,
        text: bool,
        tty: bool,
        container: str,
        window: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.args = list(args)
        self.lost = False
        self.returncode: int | None = None
        self.terminal: int | None = None
        self._text = text
        self._container = container
        self._ends: dict[str, int] = {}
        self._requests = requests
        self._lock = threading.Lock()
        message = {"op": "exec", "argv": self.args, "env": dict(env), "user": user, "cwd": workdir, "tty": tty}
        with contextlib.ExitStack() as given, contextlib.ExitStack() as ours:
            try:
                if tty:
                    theirs = self._terminal(given, ours, window)
                else:
                    theirs = self._pipes((stdin, stdout, stderr), given, ours)
                self._answers = ours.enter_context(channel.ask(requests, message, theirs))
                patience = PATIENCE if timeout is None else min(timeout, PATIENCE)
                self.pid: int = channel.answer(self._answers, patience)[0]["pid"]
            except TimeoutError:
                if timeout is not None and timeout <= PATIENCE:
                    raise subprocess.TimeoutExpired(self.args, timeout) from None
                raise mute(container, f"{args[0]!r} cannot run in it") from None
            except OSError as error:
                raise _explain(error, self.args, user, workdir, container) from None
            ours.pop_all()
        self._pending = memoryview(b"")
        self._chunks: dict[str, list[bytes]] = {}
        self._exchanging = False

    def _terminal(
        self, given: contextlib.ExitStack, ours: contextlib.ExitStack, window: tuple[int, int] | None
    ) -> list[int]:
        _, (master, slave) = channel.call(self._requests, {"op": "terminal"}, timeout=PATIENCE)
        given.callback(os.close, slave)
        ours.callback(os.close, master)
        self.terminal = master
        if window is not None:  # before the command can ask for it
            self.resize(*window)
        return [slave, slave, slave]

    def _pipes(
        self,
        wanted: tuple[int | IO[Any] | None, ...],
        given: contextlib.ExitStack,
        ours: contextlib.ExitStack,
    ) -> list[int]:
        theirs: list[int] = []
        for number, (name, what) in enumerate(zip(_STREAMS, wanted, strict=True)):
            if what == PIPE:
                read, write = os.pipe()
                far, near = (read, write) if number == 0 else (write, read)
                given.callback(os.close, far)
                ours.callback(os.close, near)
                self._ends[name] = near
                theirs.append(far)
            elif what == STDOUT and number == 2:
                theirs.append(theirs[1])
            elif what is None or what == DEVNULL:
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                given.callback(os.close, null)
                theirs.append(null)
            else:
                theirs.append(what if isinstance(what, int) else what.fileno())
        return theirs

    @functools.cached_property
    def stdin(self) -> IO[Any] | None:
        """What the command reads, to be written to; ``None`` where it is no pipe."""
        return self._stream("stdin")

    @functools.cached_property
    def stdout(self) -> IO[Any] | None:
        """What the command writes, to be read; ``None`` where it is no pipe."""
        return self._stream("stdout")

    @functools.cached_property
    def stderr(self) -> IO[Any] | None:
        """The same for its standard error."""
        return self._stream("stderr")

    def _stream(self, name: str) -> IO[Any] | None:
        """Our end of a pipe as a file: made only for who asks, since ``communicate`` does without."""
        if name not in self._ends:
            return None
        writes = name == "stdin"
        file = os.fdopen(self._ends[name], "wb" if writes else "rb", 0 if writes and not self._text else -1)
        return io.TextIOWrapper(file, "utf-8", "replace", write_through=True) if self._text else file

    def _end(self, name: str) -> int | None:
        """The descriptor of our end of a pipe, ``None`` when there is none or it was closed."""
        stream = self.__dict__.get(name)
        return None if stream is not None and stream.closed else self._ends.get(name)

    def _close_end(self, name: str) -> None:
        fd, stream = self._ends.pop(name, None), self.__dict__.get(name)
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # what was written before and is still in its buffer
                stream.close()
        elif fd is not None:
            os.close(fd)

    def detach_outputs(self) -> tuple[int, int] | None:
        """Give the descriptors of both outputs away; ``None`` where they are no pipes."""
        if self._ends.keys() < {"stdout", "stderr"}:
            return None
        return self._ends.pop("stdout"), self._ends.pop("stderr")

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal how large the window is, in characters."""
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def fileno(self) -> int:
        """A descriptor that becomes readable when the command has ended."""
        return self._answers.fileno()

    def poll(self) -> int | None:
        """The return code, negative for a signal as in ``subprocess``, or ``None`` while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and _readable(self._answers.fileno(), timeout):
            self._hear_end()
        return self.returncode

    def _hear_end(self) -> None:
        """Take the answer that says how it ended, and is there, unless another thread has taken it."""
        with self._lock:
            if self.returncode is None:
                try:
                    self.returncode = channel.answer(self._answers)[0]["exit"]
                except OSError:  # init is gone, and with it everything in the container
                    self.lost = True
                    self.returncode = -signal.SIGKILL

    @property
    def exit_code(self) -> int | None:
        """Docker's exit code, or ``None`` while it runs."""
        code = self.poll()
        return None if code is None else docker_exit_code(code)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            message = {"op": "signal", "pid": self.pid, "signal": int(number)}
            try:
                channel.call(self._requests, message, timeout=PATIENCE)
            except TimeoutError:
                raise mute(self._container, f"no signal {int(number)} for {self.args[0]!r}") from None
            except (ProcessLookupError, BrokenPipeError):  # it has ended meanwhile
                return

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self) -> None:
        """Send SIGKILL to the command and to what it has started, but for what made a session of its own."""
        message = {"op": "signal", "pid": -self.pid, "signal": int(signal.SIGKILL)}
        with contextlib.suppress(OSError):
            channel.call(self._requests, message, timeout=_HASTE)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Feed ``input``, read both outputs until the command has ended, and give them.

        Unlike ``subprocess``, a daemon that the command leaves behind with its output open does not hold this up.
        ``subprocess.TimeoutExpired`` after ``timeout`` seconds carries what came until then; another call goes on from
        there. On a terminal ``input`` is typed, and what it shows is the first of both.
        """
        outputs = self._exchange(input, timeout) if self.terminal is None else self._converse(input, timeout)
        self._close_ends()
        return outputs

    def _close_ends(self) -> None:
        for name in _STREAMS:
            self._close_end(name)

    def _exchange(self, data: Any, timeout: float | None) -> tuple[Any, Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._exchanging:
            self._exchanging = True
            self._pending = memoryview(data.encode() if isinstance(data, str) else data or b"")
            self._chunks = {name: [] for name in ("stdout", "stderr") if self._end(name) is not None}
        poll = select.poll()
        unfinished = {self._ends[name]: parts for name, parts in self._chunks.items()}
        for fd in unfinished:
            poll.register(fd, select.POLLIN)
        stdin = self._end("stdin")
        if stdin is not None and self._pending:
            os.set_blocking(stdin, False)
            poll.register(stdin, select.POLLOUT)
        else:
            self._close_end("stdin")
        ended = self._answers.fileno()
        poll.register(ended, select.POLLIN)
        while self.returncode is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0, *self._outputs(text=False))
            for fd, _ in poll.poll(None if left is None else left * 1000):
                if fd == ended:
                    self._hear_end()
                elif fd == stdin:
                    self._feed(poll)
                elif not _read_some(fd, unfinished[fd]):
                    poll.unregister(fd)
                    del unfinished[fd]
        for fd, parts in unfinished.items():
            _read_rest(fd, parts)
        return self._outputs(text=self._text)

    def _converse(self, data: Any, timeout: float | None) -> tuple[Any, Any]:
        terminal = self.terminal
        assert terminal is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._exchanging:
            self._exchanging = True
            self._pending = memoryview(data.encode() if isinstance(data, str) else data or b"")
        shown = self._chunks.setdefault("terminal", [])
        os.set_blocking(terminal, False)
        open_inside = True
        while self.returncode is None:
            poll = select.poll()
            poll.register(self._answers, select.POLLIN)
            if open_inside:
                poll.register(terminal, select.POLLIN | (select.POLLOUT if self._pending else 0))
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0, b"".join(shown), b"")
            ready = dict(poll.poll(None if left is None else left * 1000))
            if ready.get(terminal, 0) & select.POLLOUT:
                with contextlib.suppress(BlockingIOError):
                    self._pending = self._pending[os.write(terminal, self._pending[:_CHUNK]) :]
            if ready.get(terminal, 0) & ~select.POLLOUT:
                open_inside = _read_terminal(terminal, shown)
            self.poll()
        for _ in range(_CHUNK // _TERMINAL_CHUNK):  # no more than it holds: a daemon left behind may write for ever
            if not (_readable(terminal, 0) and _read_terminal(terminal, shown)):
                break
        output = b"".join(shown)
        return (output.decode("utf-8", "replace"), "") if self._text else (output, b"")

    def _feed(self, poll: select.poll) -> None:
        stdin = self._ends["stdin"]
        try:
            self._pending = self._pending[os.write(stdin, self._pending[:_CHUNK]) :]
        except BrokenPipeError:
            self._pending = self._pending[len(self._pending) :]
        if not self._pending:
            poll.unregister(stdin)
            self._close_end("stdin")

    def _outputs(self, *, text: bool) -> tuple[Any, Any]:
        joined = [b"".join(self._chunks[name]) if name in self._chunks else None for name in ("stdout", "stderr")]
        if text:
            return tuple(None if data is None else data.decode("utf-8", "replace") for data in joined)  # type: ignore[return-value]
        return joined[0], joined[1]

    def close(self) -> None:
        """Give back the descriptors; the command itself goes on."""
        self._close_ends()
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None
        self._answers.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_ends()
        self.wait()
        self.close()


def _readable(fd: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0, timeout * 1000)))


def _read_some(fd: int, chunks: list[bytes]) -> bool:
    """Read once what a pipe that is ready has; ``False`` at the end of the stream."""
    data = os.read(fd, _CHUNK)
    chunks.append(data)
    return bool(data)


def _read_terminal(fd: int, chunks: list[bytes]) -> bool:
    """``_read_some`` of a terminal, which ends with EIO when nobody has its other side open any more."""
    try:
        return _read_some(fd, chunks)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False


def _read_rest(fd: int, chunks: list[bytes]) -> None:
    """Read what a pipe holds now: no more than fits in, for a daemon left behind may write for ever."""
    left = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    while left > 0 and _readable(fd, 0) and _read_some(fd, chunks):
        left -= len(chunks[-1])


def mute(container: str, what: str) -> ContainerError:
    """What it means that a container's init does not answer."""
    return ContainerError(
        f"container {container} does not answer: {what}",
        container=container,
        hint="something inside stopped its init, or took it over; close() ends it all the same",
    )


def _explain(error: OSError, args: Sequence[str], user: str, workdir: str, container: str) -> ContainerError:
    """What an ``exec`` that never began means to the one who asked for it."""
    name = args[0] if args else ""
    reason = os.strerror(error.errno) if error.errno else error.strerror
    if isinstance(error, BrokenPipeError):
        return ContainerError(f"container {container} is gone: {name!r} cannot run in it", container=container)
    cause = error.strerror if error.errno == errno.EINVAL else reason
    if error.filename in ("user", "ids"):
        hint = "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
        return ContainerError(
            f"cannot run {name!r} as user {user!r} in container {container}: {cause}",
            container=container,
            hint=hint if error.filename == "ids" else None,
        )
    if error.filename == "workdir":
        return ContainerError(
            f"cannot run {name!r} in container {container}: working directory {workdir!r}: {reason}",
            container=container,
        )
    if error.errno == errno.EAGAIN:  # fork(2)
        return ContainerError(
            f"cannot run {name!r} in container {container}: no more processes can be started",
            container=container,
            hint="end some, or raise its pids=",
        )
    if error.filename != "command":  # init could not even try
        return ContainerError(f"cannot run {name!r} in container {container}: {cause}", container=container)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        message = f"{name!r}: no such program in the image of container {container}, or none to interpret it"
        if "/" not in name:
            message = f"{name!r}: no such program on the PATH of container {container}"
        return CommandNotFound(message, command=name, exit_code=127, container=container)
    return CommandNotFound(
        f"{name!r} cannot be executed in container {container}: {cause}",
        command=name,
        exit_code=126,
        container=container,
        hint="it is for another CPU, or a script without #!" if error.errno == errno.ENOEXEC else None,
    )
