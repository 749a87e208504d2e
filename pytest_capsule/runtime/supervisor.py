"""The engine's side of the supervisor: starts the process, gives it its ids, and asks it for containers."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import capabilities, channel, program
from pytest_capsule.archive import zstd
from pytest_capsule.errors import ALLOW_NAMESPACES, ASK_THE_CHECK, UnsupportedHost
from pytest_capsule.runtime.variants import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BLANKS = 2
_START = (
    "import sys; sys.path.insert(0, {!r}); sys.path += {!r}; "
    "from pytest_capsule.runtime import supervisor_process as p; p.main({}, {}, {})"
)


@dataclass(frozen=True)
class Ids:
    """How user ids inside map to the host's.

    ``kind`` is ``root`` (no user namespace), ``range`` (root inside is this user, all others come from ``/etc/subuid``)
    or ``single`` (root inside is this user, and there is nobody else). ``uids`` and ``gids`` are the ranges
    ``(first, count)``.
    """

    kind: str
    uids: tuple[int, int] | None = None
    gids: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """A name for stores: files that belong to one mapping cannot be used under another."""
        return f"range-{self.uids[0]}" if self.uids else self.kind


def host_ids() -> Ids:
    """What this process may map: everything as root, a range with ``newuidmap`` and ``/etc/subuid``, else itself."""
    if os.geteuid() == 0 and _is_all_of_root():
        return Ids("root")
    uids, gids = _subordinate("/etc/subuid"), _subordinate("/etc/subgid")
    if uids and gids and shutil.which("newuidmap") and shutil.which("newgidmap"):
        return Ids("range", uids, gids)
    return Ids("single")


def _is_all_of_root() -> bool:
    """Whether it may mount and wire networks: the root of a container often may do one, or nothing of it."""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return all(effective >> capabilities.NAMES.index(name) & 1 for name in ("SYS_ADMIN", "NET_ADMIN"))


def _subordinate(path: str) -> tuple[int, int] | None:
    """The caller's first range in ``/etc/subuid`` or ``/etc/subgid``: subuid(5)."""
    import pwd

    uid = os.getuid()
    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            fields = line.strip().split(":")
            if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
                return int(fields[1]), int(fields[2])
    return None


class Supervisor:
    """One supervisor process, started when it is first needed; safe to use from any thread."""

    def __init__(self, ids: Ids, mountpoint: Path) -> None:
        self.ids = ids
        self._mountpoint = mountpoint
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ordered: socket.socket | None = None
        self._stderr = -1

    @property
    def pid(self) -> int | None:
        """The process' id, ``None`` before it is needed."""
        return self._process.pid if self._process else None

    def container(
        self, variant: dict[str, Any], *, modules: Sequence[str] = (), network: int | None = None
    ) -> tuple[socket.socket, int]:
        """A blank container: the channel to its init and the pidfd of it. ``modules`` are imported before the fork.

        ``network`` is a descriptor of the network namespace to be in, instead of one of its own.
        """
        networks = [] if network is None else [network]
        delivered = self._delivered() if variant == PLAIN and not modules and not networks else None
        message = {"op": "container", "variant": variant, "modules": list(modules)}
        channel_fd, pidfd = delivered or self._ask(message, networks)
        return socket.socket(fileno=channel_fd), pidfd

    def order(self) -> None:
        """Ask for the next blank container before it is needed, and wait for nothing: between two tests, say."""
        with self._lock:
            if self._control is not None and self._ordered is None:
                with contextlib.suppress(OSError):
                    self._ordered = channel.ask(self._control, {"op": "order"})

    def _delivered(self) -> list[int] | None:
        """The container that was ordered; ``None`` where none was, or it could not be made."""
        with self._lock:
            ordered, self._ordered = self._ordered, None
        if ordered is None:
            return None
        with ordered, contextlib.suppress(OSError):
            return channel.answer(ordered)[1]
        return None

    def make_hub(self, hub: int, addresses: Sequence[tuple[str, int]], mac: str) -> None:
        """Make a network namespace with a bridge and keep it as number ``hub`` until ``drop_hub``."""
        self._ask({"op": "hub", "hub": hub, "addresses": list(addresses), "mac": mac})

    def hub_namespace(self, hub: int) -> int:
        """A descriptor of a hub's namespace, to be handed to a container's init and closed."""
        return self._ask({"op": "hub_namespace", "hub": hub})[0]

    def drop_hub(self, hub: int) -> None:
        """Let a hub go; it lives on while a container is on it."""
        self._ask({"op": "drop_hub", "hub": hub})

    def serve(self, module: str, function: str) -> tuple[socket.socket, int]:
        """A child in the supervisor's user namespace that runs ``module.function(socket)``; its socket and pidfd."""
        channel_fd, pidfd = self._ask({"op": "serve", "module": module, "function": function})
        return socket.socket(fileno=channel_fd), pidfd

    def _ask(self, message: channel.Message, descriptors: Sequence[int] = ()) -> list[int]:
        """What the process gives for a request; another is started where it was killed, for what it did not hold."""
        words = ""
        for _ in range(1 if "hub" in message else 2):
            control = self._control or self._started()
            try:
                return channel.call(control, message, descriptors)[1]
            except BrokenPipeError:
                words = self._bury(control)
            except OSError as error:
                raise self._unsupported(error) from None
        raise UnsupportedHost(f"the supervisor process has died: {words}")

    def _bury(self, control: socket.socket) -> str:
        """Take leave of a process that has died, unless another thread has; gives what it said last."""
        with self._lock:
            if self._control is not control or self._process is None:
                return ""
            self._process.wait()
            words = self._last_words()
            control.close()
            os.close(self._stderr)
            self._control, self._process, self._stderr = None, None, -1
            return words

    def _started(self) -> socket.socket:
        with self._lock:
            if self._control is None:
                self._control = self._start()
            return self._control

    def _start(self) -> socket.socket:
        ours, other = channel.pair()
        theirs = program.above_standard(other.detach())
        engine = program.above_standard(os.pidfd_open(os.getpid()))
        self._stderr = os.memfd_create("supervisor-stderr")
        python = program.sealed(sys.executable)
        package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        try:
            start = _START.format(package_parent, zstd.folders(), theirs, engine, python.fd)
            self._process = subprocess.Popen(
                # -X utf8: names of files are sent as UTF-8 means them, whatever the locale here is
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", start],
                executable=f"/proc/self/fd/{python.fd}",
                env=python.variables,  # not the caller's: a container may be allowed to look into its init
                pass_fds=(theirs, engine, python.fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,  # a Ctrl-C is for pytest, which then closes us in order
                cwd="/",
            )
        except PermissionError as error:
            ours.close()
            raise UnsupportedHost(
                "this host runs no program that is a file in memory, which the supervisor is",
                syscall="execve",
                errno=error.errno or 0,
                hint="as root: sysctl -w vm.memfd_noexec=0",
            ) from None
        finally:
            for fd in (theirs, engine, python.fd):
                os.close(fd)
        try:
            channel.send(ours, {"ids": self.ids.kind, "mountpoint": str(self._mountpoint), "blanks": _BLANKS})
            if self.ids.kind == "range":
                channel.answer(ours)
                self._map_ids(self._process.pid)
                channel.send(ours, {"mapped": True})
            channel.answer(ours)
        except OSError as error:
            ours.close()
            self._process.wait()
            raise self._unsupported(error) from None
        except BaseException:
            ours.close()
            self._process.wait()
            raise
        return ours

    def _map_ids(self, pid: int) -> None:
        own = (os.getuid(), os.getgid())
        for command, mine, subordinate in zip(
            ("newuidmap", "newgidmap"), own, (self.ids.uids, self.ids.gids), strict=True
        ):
            first, count = subordinate or (0, 0)
            words = [command, str(pid), "0", str(mine), "1", "1", str(first), str(count)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UnsupportedHost(
                    f"{command} cannot map the range of /etc/sub{command[3:6]}: {done.stderr.strip()}",
                    syscall=command,
                    hint=f"check this user's lines in /etc/subuid and /etc/subgid, and that {command} is setuid root",
                )

    def _unsupported(self, error: OSError) -> UnsupportedHost:
        call = str(error.filename or "")
        mend = _userns_mend()
        # AppArmor lets a user namespace be made, and nothing be done in it.
        if "CLONE_NEWUSER" in call or (self.ids.kind != "root" and mend and error.errno in (errno.EPERM, errno.EACCES)):
            return UnsupportedHost(
                "this host lets no ordinary user make a user namespace, which containers need without root",
                syscall=call,
                errno=error.errno or 0,
                hint=mend or ALLOW_NAMESPACES,
            )
        return UnsupportedHost(
            f"containers cannot be set up on this host{f': {words}' if (words := self._last_words()) else ''}",
            syscall=call,
            errno=error.errno or 0,
            hint=ASK_THE_CHECK,
        )

    def _last_words(self) -> str:
        return os.pread(self._stderr, 4096, 0).decode("utf-8", "replace").strip() if self._stderr >= 0 else ""

    def close(self) -> None:
        """End the process and with it whatever it has forked; returns when the kernel is done with that."""
        delivered = self._delivered()
        with self._lock:
            control, self._control = self._control, None
            process, self._process = self._process, None
            if delivered is not None:
                _end(*delivered)
            if control is not None:
                control.close()
            if process is not None:
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            if self._stderr >= 0:
                os.close(self._stderr)
                self._stderr = -1


def _end(channel_fd: int, pidfd: int) -> None:
    """End a container that nobody has used."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    ended.poll(5000)
    os.close(pidfd)
    os.close(channel_fd)


def _userns_mend(settings: str = "/proc/sys") -> str | None:
    """The command that lets ordinary users have user namespaces, by the setting that forbids it here, if one does."""
    for name, forbidding, value in (
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        with contextlib.suppress(OSError), open(f"{settings}/{name.replace('.', '/')}") as file:
            if file.read().strip() == forbidding:
                return f"as root: sysctl -w {name}={value}"
    return None
