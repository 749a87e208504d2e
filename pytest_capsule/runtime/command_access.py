"""Commands in a container, as a test runs them."""

from __future__ import annotations

import posixpath
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, overload

from pytest_capsule.aio import in_thread
from pytest_capsule.errors import ContainerError, ExecError, ExecTimeout, UsageError
from pytest_capsule.runtime.process import DEVNULL, PIPE, ExecResult, Process
from pytest_capsule.runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_WINDOW = (24, 80)


class CommandAccess(Sandbox):
    """A sandbox in which commands run."""

    def __init__(self, **sandbox: Any) -> None:
        self._paused = False
        self._commands: set[Process] = set()
        super().__init__(**sandbox)

    @overload
    def exec(
        self,
        cmd: str | Sequence[str],
        *,
        stdin: str | bytes | IO[Any] | int | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        text: Literal[True] = True,
        tty: bool = False,
        window: tuple[int, int] = _WINDOW,
    ) -> ExecResult[str]: ...

    @overload
    def exec(
        self,
        cmd: str | Sequence[str],
        *,
        stdin: str | bytes | IO[Any] | int | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        text: Literal[False],
        tty: bool = False,
        window: tuple[int, int] = _WINDOW,
    ) -> ExecResult[bytes]: ...

    def exec(
        self,
        cmd: str | Sequence[str],
        *,
        stdin: str | bytes | IO[Any] | int | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        text: bool = True,
        tty: bool = False,
        window: tuple[int, int] = _WINDOW,
    ) -> ExecResult[Any]:
        """Run a command inside and wait for it: a list as it is, a string through the image's shell.

        ``stdin`` is what it reads (nothing by default), ``timeout`` is in seconds; ``env`` is added to the container's,
        ``user`` (``name``, ``uid``, ``user:group``) and ``workdir`` are instead of its own. Outputs are text, or bytes
        with ``text=False``. With ``check`` an exit code other than 0 raises ``ExecError`` with both outputs.
        ``CommandNotFound`` when the image has no such program, ``ExecTimeout`` when it took too long and was killed.

        With ``tty`` it has a terminal of ``window`` (rows, columns): ``stdin`` (text or bytes) is typed there, so that
        ``"\\x03"`` is Ctrl-C and ``"\\x04"`` the end, and ``stdout`` is all that it shows, with what was typed.
        """
        return self._exec(
            cmd,
            stdin=stdin,
            env=env,
            user=user,
            workdir=workdir,
            timeout=timeout,
            check=check,
            text=text,
            tty=tty,
            window=window,
        )

    async def aexec(self, cmd: str | Sequence[str], **options: Any) -> ExecResult[Any]:
        """``exec``, awaited: the event loop of asyncio, trio or anyio goes on meanwhile.

        The ``options`` are those of ``exec``. Cancelling kills the command.
        """
        command = _Cancellable()
        return await in_thread(lambda: self._exec(cmd, begun=command.begun, **options), command.give_up)

    def _exec(
        self,
        cmd: str | Sequence[str],
        *,
        stdin: Any = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        text: bool = True,
        tty: bool = False,
        window: tuple[int, int] = _WINDOW,
        begun: Callable[[Process], object] | None = None,
    ) -> ExecResult[Any]:
        if tty and not isinstance(stdin, (str, bytes, type(None))):
            raise UsageError("exec(tty=True) types text or bytes", hint="popen(tty=True) gives the terminal itself")
        feed, source = feed_and_source(stdin)
        process: Process | None = None
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            process = self._begin(
                cmd,
                source,
                PIPE,
                PIPE,
                env=env,
                user=user,
                workdir=workdir,
                text=text,
                tty=tty,
                window=window if tty else None,
                timeout=timeout,
            )
            if begun is not None:
                begun(process)
            stdout, stderr = process.communicate(feed, None if deadline is None else deadline - time.monotonic())
        except subprocess.TimeoutExpired as error:
            if process is not None:
                process.kill_group()
            out, err = error.output or b"", error.stderr or b""
            raise ExecTimeout(
                f"{error.cmd!r} did not end within {timeout} s in container {self.name} and was killed"
                f"{_printed(out, err)}",
                command=error.cmd,
                timeout=timeout or 0,
                stdout=out.decode("utf-8", "replace") if text else out,
                stderr=err.decode("utf-8", "replace") if text else err,
            ) from None
        finally:
            if process is not None:
                process.close()
        code = process.exit_code
        assert code is not None
        if process.lost:
            raise ContainerError(f"container {self.name} went while {process.args!r} ran in it", container=self.name)
        if check and code != 0:
            raise ExecError(
                f"{process.args!r} ended with exit code {code} in container {self.name}{_printed(stdout, stderr)}",
                command=process.args,
                exit_code=code,
                stdout=stdout,
                stderr=stderr,
            )
        return ExecResult(code, stdout, stderr)

    def popen(
        self,
        cmd: str | Sequence[str],
        *,
        stdin: int | IO[Any] | None = PIPE,
        stdout: int | IO[Any] | None = PIPE,
        stderr: int | IO[Any] | None = PIPE,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        text: bool = True,
        tty: bool = False,
        window: tuple[int, int] | None = None,
    ) -> Process:
        """Start a command inside and give it as a look-alike of ``subprocess.Popen``.

        ``stdin``, ``stdout`` and ``stderr`` are what they are there: ``PIPE``, ``DEVNULL``, a file, a descriptor; the
        rest is as in ``exec``. ``CommandNotFound`` when the image has no such program.

        With ``tty`` all three streams are a terminal of ``window`` (rows, columns), whose other end is ``terminal``.
        """
        process = self._begin(
            cmd, stdin, stdout, stderr, env=env, user=user, workdir=workdir, text=text, tty=tty, window=window
        )
        self._commands.add(process)
        return process

    def _begin(
        self,
        cmd: str | Sequence[str],
        stdin: int | IO[Any] | None,
        stdout: int | IO[Any] | None,
        stderr: int | IO[Any] | None,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        text: bool = True,
        tty: bool = False,
        window: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> Process:
        if isinstance(cmd, bytes) or not isinstance(cmd, Sequence):
            raise UsageError(f"{cmd!r} is no command: it is a list of words, or a text for the shell")
        args = [*self.spec.shell, cmd] if isinstance(cmd, str) else [str(word) for word in cmd]
        if not args:
            raise UsageError("a command needs at least the name of a program")
        self._check_open(f": {args[0]!r} cannot run in it")
        if self._paused:
            raise ContainerError(
                f"container {self.name} is paused: {args[0]!r} cannot run in it", container=self.name, hint="unpause it"
            )
        environment = {**({"TERM": "xterm"} if tty else {}), **self.spec.env, **(env or {})}
        return Process(
            self._requests,
            args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={key: str(value) for key, value in environment.items()},
            user=self.spec.user if user is None else str(user),
            workdir=posixpath.join(self.spec.workdir, workdir or ""),
            text=text,
            tty=tty,
            container=self.name,
            window=window,
            timeout=timeout,
        )

    def _release(self) -> None:
        for process in list(self._commands):  # what a test has started and left open
            process.poll()
            process.close()
        super()._release()


class _Cancellable:
    """A command that another thread may give up, also before it has begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._given_up = False

    def begun(self, process: Process) -> None:
        """The command runs."""
        with self._lock:
            self._process = process
            if self._given_up:
                process.kill_group()

    def give_up(self) -> None:
        """Kill it, now or as soon as it has begun."""
        with self._lock:
            self._given_up = True
            if self._process is not None:
                self._process.kill_group()


def feed_and_source(stdin: Any) -> tuple[str | bytes | None, int | IO[Any]]:
    """What to write to a command, and what it reads from."""
    if isinstance(stdin, (str, bytes)):
        return stdin, PIPE
    return None, DEVNULL if stdin is None else stdin


def _printed(stdout: str | bytes | None, stderr: str | bytes | None) -> str:
    """What a command has printed, as an error says it; nothing of a stream that it left empty."""
    texts = (one.decode("utf-8", "replace") if isinstance(one, bytes) else one or "" for one in (stdout, stderr))
    named = zip(("stdout", "stderr"), (text.rstrip() for text in texts), strict=True)
    return "".join(f"\n--- {name}\n{text}" for name, text in named if text)
