"""A container as a test holds it."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import posixpath
import re
import select
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, overload

from pytest_capsule._linux import channel
from pytest_capsule.aio import in_thread
from pytest_capsule.errors import ASK_THE_CHECK, ContainerError, ExecError, ExecTimeout, UsageError
from pytest_capsule.network.ports import PortMapping, in_url, parse_inner_port, reached_at
from pytest_capsule.runtime import transfer
from pytest_capsule.runtime.changes import Change, classify
from pytest_capsule.runtime.freezer import Freezer
from pytest_capsule.runtime.health import Health, HealthResult
from pytest_capsule.runtime.logs import STREAMS, Log, LogPump
from pytest_capsule.runtime.process import DEVNULL, PATIENCE, PIPE, ExecResult, Process, mute
from pytest_capsule.runtime.restraint import Restraint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import TracebackType

    from pytest_capsule.oci.config import Healthcheck
    from pytest_capsule.runtime.cgroups import Cgroups
    from pytest_capsule.runtime.limits import Limit, Limits
    from pytest_capsule.runtime.process_table import ProcessTable
    from pytest_capsule.runtime.spec import RuntimeSpec
    from pytest_capsule.runtime.supervisor import Supervisor

    Classify = Callable[[list[dict[str, str]], Mapping[str, Sequence[str]]], list[Change]]

_FLAGS = {"r": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND}
_WINDOW = (24, 80)
_FLAGS["x"] = os.O_WRONLY | os.O_CREAT | os.O_EXCL

_UNHURRIED = frozenset(("place", "export", "changes"))  # requests that take as long as there are files
_SIGNAL = re.compile(r"(?P<number>\d{1,3})|(SIG)?(?P<name>[A-Z][A-Z\d]*)(?P<offset>(?<=RTMIN)\+\d+|(?<=RTMAX)-\d+)?")
_UNNAMED = {"SIGSTKFLT": 16}  # which Python knows from 3.11 on
_GLANCE = 0.05  # seconds: how soon a wait that was given up ends


class Container:
    """A running container; everything of it is gone when ``close`` returns, or its ``with`` block ends.

    Made by ``Engine.run``. The main process is only one of those inside: when it has exited, ``exec`` and the files go
    on until ``close``. All methods may be called from any thread.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        spec: RuntimeSpec,
        *,
        id: str,
        name: str,
        pump: LogPump,
        image: Any = None,
        command: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        stop_signal: str = "",
        commit: Callable[..., Any] | None = None,
        publish: Callable[[Container, PortMapping], tuple[str, int]] | None = None,
        classify: Classify = classify,
        limits: Limits | None = None,
        cgroups: Cgroups | None = None,
        neighbour: Container | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self.spec = spec
        self.image = image
        self.command = tuple(command)
        self.labels = dict(labels or {})
        self.ip: str = "127.0.0.1" if neighbour is None else neighbour.ip
        self.ip6: str = "::1" if neighbour is None else neighbour.ip6
        self.outbound = ""  # the interface by which there is to be a way out
        self.sharing: list[Container] = []  # the containers that are in this one's network namespace
        self.published: dict[tuple[int, str], tuple[str, int]] = {}
        self._pump = pump
        self._commit = commit
        self._publish = publish
        self._classify = classify
        self._stop_signal = stop_signal
        self._cleanup = contextlib.ExitStack()
        self._commands: set[Process] = set()
        self._main: Process | None = None
        self._main_command: tuple[Sequence[str], dict[str, Any]] | None = None
        self._log: Log | None = None
        self._health: Health | None = None
        self._paused = False
        self._ended = False
        self._closed = False
        self._closing = threading.Lock()
        self._publishing = threading.Lock()
        self._furnishing: socket.socket | None = None
        self._process = os.getpid()
        self._supervisor = supervisor
        self._restraint: Restraint | None = None
        self._cgroups = cgroups
        self._freezer: Freezer | None = None
        self._requests, self._pidfd = self._forked(neighbour)
        try:
            self._furnish(limits)
        except OSError as error:
            raise self._not_set_up(error) from None
        except BaseException:
            self.close()
            raise

    def _furnish(self, limits: Limits | None) -> None:
        """Have init put the container together, and wait for nothing."""
        message = self.spec.message()
        if limits is not None and self._cgroups is not None and limits.asked():
            self._restraint = self._restrain(limits, self._cgroups)  # while nothing but init runs
            message |= self._restraint.message()
        descriptors: list[int] = []
        with contextlib.ExitStack() as hubs:
            hubs.callback(channel.close, descriptors)  # before there is one: a Ctrl-C may come at any line
            for network in self.spec.networks:
                descriptors.append(self._supervisor.hub_namespace(network.hub))
            self._furnishing = channel.ask(self._requests, message, descriptors)

    def _forked(self, neighbour: Container | None) -> tuple[socket.socket, int]:
        """A blank container, in the network namespace of ``neighbour`` if there is one."""
        variant, modules = self.spec.variant(), self.spec.modules
        if neighbour is None:
            return self._supervisor.container(variant, modules=modules)
        network = neighbour.network_namespace()
        try:
            made = self._supervisor.container(variant, modules=modules, network=network)
        finally:
            os.close(network)
        neighbour.sharing.append(self)
        self.on_close(lambda: neighbour.sharing.remove(self))
        return made

    def ready(self) -> None:
        """Wait until init has put the container together; ``ContainerError`` when it could not."""
        furnishing, self._furnishing = self._furnishing, None
        if furnishing is not None:
            with furnishing:
                try:
                    channel.answer(furnishing)
                except OSError as error:
                    raise self._not_set_up(error) from None

    def _not_set_up(self, error: OSError) -> ContainerError:
        self.close()
        where = f" ({error.filename})" if error.filename else ""
        refused = error.errno in (errno.EPERM, errno.EACCES)
        return ContainerError(
            f"container {self.name} cannot be set up: {error.strerror}{where}",
            container=self.name,
            hint=ASK_THE_CHECK if refused else None,
        )

    def _restrain(self, limits: Limits, cgroups: Cgroups) -> Restraint:
        restraint = Restraint(
            limits,
            cgroups,
            label=self.id[:12],
            init=self.init_pid,
            look=lambda: self._table().held(),
            kill=lambda: self._signal_all(signal.SIGKILL),
        )
        self._cleanup.callback(restraint.close)
        return restraint

    # -- the main process -----------------------------------------------------------------------------------------

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
        feed, source = _feed_and_source(stdin)
        with contextlib.ExitStack() as given:
            if feed is not None:  # as a file: nobody has to wait until it is read
                source = given.enter_context(_memory_file(feed))
            process = self._begin(command, source, stdout, stderr, text=False, tty=tty, window=window)
        self._main = process
        if (outputs := process.detach_outputs()) is not None:
            self._log = Log(*outputs, process.fileno())
            self._pump.watch(self._log)
        if (check := self._healthcheck()) is not None:
            self._health = Health(check, self._probe, self._wake)

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
        """``running``, ``paused``, ``exited`` (the main process has, or init was killed), ``removed`` (closed)."""
        if self._ended:
            return "removed"
        if self.is_gone():
            return "exited"
        if self._paused:
            return "paused"
        return "exited" if self.exit_code is not None else "running"

    def is_gone(self) -> bool:
        """Whether init has ended, and with it everything inside."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(0))

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
        if self._paused:
            return
        try:
            self._frozen().freeze(lambda: self._table().pids()[1:])
        except OSError:
            self._freezer = None
            self._signal_all(signal.SIGSTOP)
        self._paused = True

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
        if self._paused:
            if self._freezer is not None:
                self._freezer.thaw()
            else:
                self._signal_all(signal.SIGCONT)
            self._paused = False

    def _signal_all(self, number: signal.Signals) -> None:
        self._check_open()
        with contextlib.suppress(BrokenPipeError):
            self._request({"op": "signal_all", "signal": int(number)})

    # -- commands -------------------------------------------------------------------------------------------------

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
        feed, source = _feed_and_source(stdin)
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

    # -- files ----------------------------------------------------------------------------------------------------

    def open(self, path: str, mode: str = "r", *, encoding: str = "utf-8", errors: str | None = None) -> IO[Any]:
        """Open a file inside, as ``open`` does; what is created belongs to the container's root.

        A relative path starts at the container's working directory. Errors are those of ``open``:
        ``FileNotFoundError``, ``IsADirectoryError``.
        """
        kind = mode.replace("b", "").replace("t", "").replace("+", "")
        if kind not in _FLAGS or len(set(mode)) != len(mode) or {"b", "t"} <= set(mode):
            raise UsageError(f"open(mode={mode!r}): it is r, w, a or x, with b and +")
        flags = _FLAGS[kind]
        if "+" in mode:
            flags = flags & ~(os.O_RDONLY | os.O_WRONLY) | os.O_RDWR
        _, (fd,) = self._call({"op": "open", "path": self._path(path), "flags": flags, "mode": 0o644})
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        binary = mode.replace("x", "w").replace("t", "").replace("b", "") + "b"
        file = open(fd, binary)  # noqa: SIM115  # the caller's to close
        if "b" in mode:
            return file
        try:
            return io.TextIOWrapper(file, encoding=encoding, errors=errors)
        except BaseException:
            file.close()
            raise

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The text of a file inside."""
        with self.open(path, "r", encoding=encoding) as file:
            content: str = file.read()
            return content

    def read_bytes(self, path: str) -> bytes:
        """The bytes of a file inside."""
        with self.open(path, "rb") as file:
            content: bytes = file.read()
            return content

    def write_text(self, path: str, text: str, encoding: str = "utf-8") -> int:
        """Write a file inside; returns how many characters."""
        with self.open(path, "w", encoding=encoding) as file:
            return file.write(text)

    def write_bytes(self, path: str, data: bytes) -> int:
        """Write a file inside; returns how many bytes."""
        with self.open(path, "wb") as file:
            return file.write(data)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory inside; a symlink that leads nowhere is not."""
        try:
            self._call({"op": "stat", "path": self._path(path), "follow": True})
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    def listdir(self, path: str = "/") -> list[str]:
        """The names in a directory inside, sorted."""
        return [entry["name"] for entry in self._call({"op": "list", "path": self._path(path)})[0]["entries"]]

    def copy_in(self, src: str | os.PathLike[str], dest: str) -> None:
        """Copy a file or folder of the host into the container, as ``docker cp`` does; root owns what arrives.

        A folder copied onto an existing directory lands in it under its name, or, written ``folder/.``, its contents
        do. ``UsageError`` where there is no ``src``.
        """
        transfer.copy_in(self._call, os.fspath(src), self._path(dest) + ("/" if dest.endswith("/") else ""))

    def copy_out(self, src: str, dest: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, as ``docker cp`` does.

        Nothing that the container's tree holds can lead the copy to another place of the host. ``FileNotFoundError``
        where there is no ``src``.
        """
        transfer.copy_out(self._call, self._path(src) + ("/." if src.endswith("/.") else ""), os.fspath(dest))

    def place(self, message: dict[str, Any], roots: Sequence[int]) -> list[str]:
        """Carry out a COPY or ADD that was worked out already: ``runtime.placement.place`` says what it takes.

        Returns what the image lacks to know the owner.
        """
        lacks: list[str] = self._call({"op": "place", **message}, roots)[0]["lacks"]
        return lacks

    def make_directory(self, path: str, *, mode: int = 0o755, user: str = "") -> list[str]:
        """``mkdir -p`` inside; returns what the image lacks to know the owner of what had to be made."""
        lacks: list[str] = self._call({"op": "mkdir", "path": path, "mode": mode, "user": user})[0]["lacks"]
        return lacks

    def claim(self, paths: Sequence[str], *, user: str) -> None:
        """Record a user as the owner of files that have no owner on record, where a single id owns them all."""
        self._call({"op": "claim", "paths": list(paths), "user": user})

    def diff(self) -> list[Change]:
        """What has been added (A), changed (C) and deleted (D) in the writable layer, sorted by path."""
        entries = self._call({"op": "changes"})[0]["changes"]
        ours = {overlay.target for overlay in self.spec.overlays} - {"/"}
        found: list[Change] = self._classify(entries, {o.target: o.lowers for o in self.spec.overlays})
        return [change for change in found if change.path not in ours]

    def open_root(self) -> int:
        """A descriptor of the container's root directory, to read from."""
        _, (fd,) = self._call({"op": "open", "path": "/", "flags": os.O_PATH | os.O_DIRECTORY, "mode": 0})
        return fd

    def commit(
        self,
        tag: str | None = None,
        *,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        change: Sequence[str] = (),
        end: bool = False,
    ) -> Any:
        """The writable layer as a new ``Image`` on this one's, with another ``command`` or more ``env``.

        ``change`` are instructions such as ``WORKDIR /srv`` or ``CMD ["run"]``: Docker's ``--change``. The container
        goes on, with files of its own, unless it is to ``end`` with it.
        """
        if self._commit is None:
            raise UsageError(f"container {self.name} cannot be committed: no engine made it")
        return self._commit(self, tag, command=command, env=env, change=change, end=end)

    def export(self, directory: int) -> int:
        """Copy the writable layer into the directory behind a descriptor; returns how many entries it has."""
        entries: int = self._call({"op": "export"}, [directory])[0]["entries"]
        return entries

    def _path(self, path: str | os.PathLike[str]) -> str:
        return posixpath.normpath(posixpath.join("/", self.spec.workdir, os.fspath(path)))

    # -- the network ----------------------------------------------------------------------------------------------

    def connect(self, port: int | str, timeout: float | None = 10) -> socket.socket:
        """A connected TCP socket to a port inside, published or not, made within the container's own network.

        ``timeout``, in seconds, is for the connection, and then the socket's own. ``ConnectionRefusedError`` where
        nobody listens, ``TimeoutError`` where nobody accepts.
        """
        port, protocol = parse_inner_port(port)
        if protocol != "tcp":
            raise UsageError(f"connect({port}): it is for TCP", hint=f'address("{port}/{protocol}") is for datagrams')
        _, (fd,) = self._call({"op": "connect", "port": port})
        sock = socket.socket(fileno=fd)
        try:
            arrived = select.poll()
            arrived.register(sock, select.POLLOUT)
            if not arrived.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"port {port} of container {self.name} accepts nobody")
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, f"{os.strerror(error)}: port {port} of container {self.name}")
            sock.settimeout(timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    def address(self, port: int | str) -> tuple[str, int]:
        """``(host, port)`` at which the test's own process reaches a port inside, published now if it was not.

        ``"53/udp"`` is one for datagrams.
        """
        number, protocol = parse_inner_port(port)
        if self.spec.host_network:
            return "127.0.0.1", number
        with self._publishing:
            if (number, protocol) not in self.published:
                if self._publish is None:
                    raise UsageError(f"container {self.name} cannot publish ports")
                self._check_open()
                self.published[number, protocol] = self._publish(self, PortMapping(number, protocol=protocol))
            host, outside = self.published[number, protocol]
        return reached_at(host), outside

    @property
    def exposed(self) -> tuple[str, ...]:
        """The ports that the image names with EXPOSE, such as ``80/tcp``: where its services are, published or not."""
        return () if self.image is None else tuple(self.image.config.config.exposed_ports)

    def url(self, port: int | str, path: str = "/") -> str:
        """The address of a port inside as an ``http`` URL."""
        host, outside = self.address(port)
        return f"http://{in_url(host)}:{outside}/{path.lstrip('/')}"

    def network_namespace(self) -> int:
        """A descriptor of its network namespace, to be closed."""
        return self._call({"op": "network"})[1][0]

    @property
    def requests(self) -> socket.socket:
        """The channel to the container's init: for a forwarder, which asks it for connections."""
        return self._requests

    # -- what it is doing -----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The id, as the host counts, of the main process while it runs, else of the container's init.

        ``ContainerError`` when both have gone.
        """
        init = self.init_pid
        if self._main is not None and self._main.poll() is None:
            return self._table().find(self._main.pid) or init
        return init

    @property
    def init_pid(self) -> int:
        """The id, as the host counts, of the container's PID 1; ``ContainerError`` when that has gone."""
        self._check_open()
        with open(f"/proc/self/fdinfo/{self._pidfd}") as info:
            pid = next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
        if pid <= 0:  # reaped; and to kill(2) a number like that is no process, but everybody
            raise ContainerError(f"container {self.name} is gone", container=self.name)
        return pid

    def health(self) -> str | None:
        """``starting``, ``healthy`` or ``unhealthy`` by the image's HEALTHCHECK; ``None`` without one.

        It is run from the main process' start on, or, without one, from when this is first asked for.
        """
        if self._health is None and not self._ended and (check := self._healthcheck()) is not None:
            self._health = Health(check, self._probe, self._wake)
        return None if self._health is None else self._health.status

    @property
    def health_log(self) -> list[HealthResult]:
        """The last five runs of the HEALTHCHECK, the latest at the end."""
        return [] if self._health is None else list(self._health.results)

    def _healthcheck(self) -> Healthcheck | None:
        check: Healthcheck | None = None if self.image is None else self.image.config.config.healthcheck
        return check if check is not None and check.test and check.test[0] != "NONE" else None

    def _probe(self, command: list[str] | str, timeout: float) -> tuple[int, str]:
        result = self.exec(command, timeout=timeout)
        return result.exit_code, result.stdout + result.stderr

    def top(self) -> list[dict[str, Any]]:
        """The processes inside, init first: ``pid`` (the host's), ``name``, ``command``, ``status``, ``user``."""
        return self._table().rows()

    def stats(self) -> dict[str, float]:
        """``memory`` in bytes, ``cpu`` in seconds, ``pids``, and ``memory_limit`` where there is one.

        What a control group accounts for is read there (its memory is also that of files in memory, its ``pids`` counts
        threads); the rest is what the processes hold alone and have used since their start. As in Docker, our own
        init is none of ``pids``.
        """
        accounted = {} if self._restraint is None else self._restraint.usage()
        if {"memory", "cpu", "pids"} <= accounted.keys():
            return accounted
        return {**self._table().usage(), **accounted}

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits in force by keyword, each with how: ``enforced`` by the kernel, or ``advisory``; and why."""
        return {} if self._restraint is None else self._restraint.limits

    @property
    def oom_killed(self) -> bool:
        """Whether a process inside was killed because ``memory`` was used up."""
        return self._restraint is not None and self._restraint.killed_for == "memory"

    @property
    def killed_for(self) -> str | None:
        """The limit that has cost a process its life, such as ``out of memory (limit 64 MiB)``; else ``None``."""
        return None if self._restraint is None else self._restraint.describe()

    def _table(self) -> ProcessTable:
        from pytest_capsule.runtime.process_table import ProcessTable  # here: psutil is dear, and most are never asked

        try:
            return ProcessTable(self.init_pid)
        except ContainerError:  # closed, or gone: nothing runs in it
            return ProcessTable(-1)

    # -- the end --------------------------------------------------------------------------------------------------

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` when everything inside is gone."""
        self._cleanup.callback(callback)

    def end(self) -> None:
        """Kill everything inside, and wait for nothing: ``close``, which must still be called, then has less to do."""
        with self._closing:
            if not self._ended and self._process == os.getpid():
                self._ended = True
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End the container: when this returns, its processes, mounts and writable layer are gone.

        In a child that the test's process has forked it does nothing: the container is its parent's.
        """
        self.end()
        with self._closing:
            if self._closed or self._process != os.getpid():
                return
            self._closed = True
        with self._cleanup:
            gone = select.poll()
            gone.register(self._pidfd, select.POLLIN)
            gone.poll(10_000)
            self._supervisor.order()  # not before: a fork and the end of namespaces are in each other's way
            if self._restraint is not None:
                self._restraint.stop()  # before the descriptors that it uses are anybody else's
            self._release_main()
            for process in list(self._commands):  # what a test has started and left open
                process.poll()
                process.close()
            if self._furnishing is not None:
                self._furnishing.close()
            self._requests.close()
            os.close(self._pidfd)

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

    def _call(self, message: channel.Message, descriptors: Sequence[int] = ()) -> tuple[channel.Message, list[int]]:
        self._check_open()
        try:
            return self._request(message, descriptors)
        except BrokenPipeError:
            raise ContainerError(f"container {self.name} is gone", container=self.name) from None
        except OSError as error:
            path = message.get("path")
            if path is None or not str(error.filename).startswith("openat2 "):
                raise
            raise OSError(error.errno, error.strerror, path) from None

    def _request(self, message: channel.Message, descriptors: Sequence[int] = ()) -> tuple[channel.Message, list[int]]:
        patience = None if message["op"] in _UNHURRIED else PATIENCE
        try:
            return channel.call(self._requests, message, descriptors, timeout=patience)
        except TimeoutError:
            raise mute(self.name, f"{message['op']} {message.get('path', '')}".rstrip()) from None

    def _check_open(self, but: str = "") -> None:
        if self._ended:
            raise ContainerError(f"container {self.name} is closed{but}", container=self.name)

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Container {self.name} {self.status}>"


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


def _feed_and_source(stdin: Any) -> tuple[str | bytes | None, int | IO[Any]]:
    """What to write to a command, and what it reads from."""
    if isinstance(stdin, (str, bytes)):
        return stdin, PIPE
    return None, DEVNULL if stdin is None else stdin


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


def _printed(stdout: str | bytes | None, stderr: str | bytes | None) -> str:
    """What a command has printed, as an error says it; nothing of a stream that it left empty."""
    texts = (one.decode("utf-8", "replace") if isinstance(one, bytes) else one or "" for one in (stdout, stderr))
    named = zip(("stdout", "stderr"), (text.rstrip() for text in texts), strict=True)
    return "".join(f"\n--- {name}\n{text}" for name, text in named if text)
