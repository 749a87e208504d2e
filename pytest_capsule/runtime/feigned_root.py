"""Root with many ids, feigned for the commands of a container that has a single one: what init answers them.

A filter (``_linux.seccomp.filters``) hands on to init whatever sets or asks for owners and ids. A ``chown`` becomes a
record on its file (``_linux.ownership``), which goes into exported images; ``stat`` still shows root. A process that
becomes another user is told so when it asks, and its children are; the kernel goes on to treat it as root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import struct
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel, constants, ownership, syscalls
from pytest_capsule._linux.seccomp import filters, notification
from pytest_capsule.runtime import commands
from pytest_capsule.runtime.credentials import Credentials

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable

    from pytest_capsule._linux.seccomp.notification import Call, Listener

_ROOT = Credentials()
_KEEP = 0xFFFFFFFF
_AT_SYMLINK_NOFOLLOW = 0x100
_PATH_MAX = 4096
_MOST_GROUPS = 65536  # NGROUPS_MAX
_NOT_OURS = (errno.EPERM, errno.EINVAL, errno.EOVERFLOW)  # a file of the host: it stays as it is
_UNRESOLVED = (errno.ELOOP, errno.EXDEV)  # a way through /proc, such as /dev/stdout: nothing to keep a record on


class FeignedRoot:
    """The listeners of a container's commands, and who its processes think they are."""

    def __init__(self) -> None:
        machine = os.uname().machine
        self._filter = filters.feigned_root_filter(machine, handed_on=True)
        self._silent_filter = filters.feigned_root_filter(machine, handed_on=False)
        self._names = filters.handed_on_names(machine)
        self._listeners: dict[int, Listener] = {}
        self._known: dict[int, tuple[Credentials, int]] = {}
        self._answers: dict[str, Callable[[Call], int]] = {
            "chown": lambda call: self._chown(call, constants.AT_FDCWD, call.arguments, 0),
            "lchown": lambda call: self._chown(call, constants.AT_FDCWD, call.arguments, _AT_SYMLINK_NOFOLLOW),
            "fchownat": lambda call: self._chown(call, call.arguments[0], call.arguments[1:], call.arguments[4]),
            "fchown": self._fchown,
            "setgroups": self._setgroups,
        }

    # -- filters and listeners ------------------------------------------------------------------------------------

    def start(
        self, message: channel.Message, stdio: list[int], accounts: commands.Accounts
    ) -> tuple[subprocess.Popen[bytes], int | None]:
        """``commands.start`` under the filter; also the descriptor of its listener, to be polled."""
        ours, theirs = channel.pair()
        with ours, theirs:
            process = commands.start(message, stdio, accounts, many_ids=False, enter=lambda: self._enter(theirs))
            received = channel.receive(ours)
        if received is None or not received[1]:
            return process, None
        (fd,) = received[1]
        self._listeners[fd] = notification.Listener(fd, self._names)
        who = accounts.find(message["user"])
        self._remember(process.pid, Credentials.of(who.uid, who.gid, who.groups))
        return process, fd

    def _enter(self, sock: socket.socket) -> None:
        """In the command's process, before it is executed."""
        try:
            listener = syscalls.seccomp(self._filter, listen=True)
        except OSError as error:
            if error.errno != errno.EBUSY:  # whoever runs us listens already, and there can be one listener only
                raise
            syscalls.seccomp(self._silent_filter)
            channel.send(sock, {})
        else:
            channel.send(sock, {}, [listener])

    def __contains__(self, fd: int) -> bool:
        return fd in self._listeners

    def serve(self, fd: int, events: int) -> bool:
        """Answer one call; ``False`` when nobody is left to call."""
        listener = self._listeners[fd]
        if not events & select.POLLIN:
            listener.close()
            del self._listeners[fd]
            return False
        call = listener.receive()
        if call is None:
            return True
        try:
            if call.name.startswith("get"):
                self._tell(listener, call)
            elif call.name == "prctl":
                self._keep(call)
                listener.go_on(call)
            else:
                listener.answer(call, self._answers.get(call.name, self._set)(call))
        except OSError as error:
            listener.answer(call, errno=error.errno or errno.EPERM)
        return True

    # -- owners ---------------------------------------------------------------------------------------------------

    def _fchown(self, call: Call) -> int:
        fd, uid, gid = call.arguments[:3]
        with contextlib.suppress(FileNotFoundError):  # it is not open: so says the kernel, but to others
            self._give(f"/proc/{call.pid}/fd/{fd & _KEEP}", uid, gid)
            return 0
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _chown(self, call: Call, directory: int, arguments: tuple[int, ...], flags: int) -> int:
        address, uid, gid = arguments[:3]
        path = self._text(call.pid, address)
        at_current = directory & _KEEP == constants.AT_FDCWD & _KEEP
        start = f"/proc/{call.pid}/cwd" if at_current else f"/proc/{call.pid}/fd/{directory & _KEEP}"
        if not path:
            if not flags & constants.AT_EMPTY_PATH:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._give(start, uid, gid)
            return 0
        way = os.O_PATH | (os.O_NOFOLLOW if flags & _AT_SYMLINK_NOFOLLOW else 0)
        resolve = constants.RESOLVE_NO_MAGICLINKS
        if path.startswith(b"/"):
            start, resolve = f"/proc/{call.pid}/root", resolve | constants.RESOLVE_IN_ROOT
        try:
            base = os.open(start, os.O_PATH | os.O_CLOEXEC)
            try:
                found = syscalls.openat2(base, path, way, resolve=resolve)
            finally:
                os.close(base)
        except OSError as error:
            if error.errno in _UNRESOLVED:
                return 0
            raise
        try:
            self._give(f"/proc/self/fd/{found}", uid, gid)
        finally:
            os.close(found)
        return 0

    def _give(self, path: str, uid: int, gid: int) -> None:
        """Record the owner of the file behind a descriptor, by its path beneath ``/proc``."""
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            return
        try:
            os.chown(path, 0, 0)  # what a chown does besides: it clears setuid bits, and fails where nothing is written
        except OSError as error:
            if error.errno in _NOT_OURS:
                return
            raise
        uid, gid = uid & _KEEP, gid & _KEEP
        if _KEEP in (uid, gid):
            before = ownership.recorded(path, follow=True) or ownership.ROOT
            uid, gid = (old if new == _KEEP else new for old, new in zip(before, (uid, gid), strict=True))
        ownership.record(path, uid, gid)

    # -- ids ------------------------------------------------------------------------------------------------------

    def _set(self, call: Call) -> int:
        process = self._process_of(call.pid)
        before = self._credentials(process)
        after = before.after(call.name, call.arguments)
        self._remember(process, after)
        return {"setfsuid": before.uids[1], "setfsgid": before.gids[1]}.get(call.name, 0)

    def _setgroups(self, call: Call) -> int:
        count, address = call.arguments[0] & _KEEP, call.arguments[1]
        if count > _MOST_GROUPS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        data = self._memory(call.pid, address, 4 * count)
        process = self._process_of(call.pid)
        self._remember(process, self._credentials(process).with_groups(struct.unpack(f"={count}I", data)))
        return 0

    def _keep(self, call: Call) -> None:
        process = self._process_of(call.pid)
        self._remember(process, self._credentials(process)._replace(keeps=call.arguments[1] == 1))

    def _tell(self, listener: Listener, call: Call) -> None:
        """Answer a process that asks who it is; where that is root, the kernel knows."""
        known = self._credentials(self._process_of(call.pid)) if self._known else _ROOT
        if known._replace(keeps=False) == _ROOT or (call.name == "getgroups" and known.groups is None):
            listener.go_on(call)
            return
        if call.name == "getgroups":
            listener.answer(call, self._getgroups(call, known.groups or ()))
            return
        ids = known.uids if call.name.endswith("uid") else known.gids
        if call.name.startswith("getres"):
            for address, value in zip(call.arguments, ids, strict=False):
                self._write(call.pid, address, struct.pack("=I", value))
            listener.answer(call)
        else:
            listener.answer(call, ids[call.name.startswith("gete")])

    def _getgroups(self, call: Call, groups: tuple[int, ...]) -> int:
        room, address = call.arguments[0] & _KEEP, call.arguments[1]
        if room and room < len(groups):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if room:
            self._write(call.pid, address, struct.pack(f"={len(groups)}I", *groups))
        return len(groups)

    def _credentials(self, process: int) -> Credentials:
        """Its own, else those of the process that made it, while that one lives."""
        ancestors: list[int] = []
        while process > 1:
            known = self._known.get(process)
            if known is not None and not _has_ended(known[1]):
                credentials = known[0]._replace(keeps=known[0].keeps and not ancestors)
                for heir in ancestors:
                    self._remember(heir, credentials)
                return credentials
            ancestors.append(process)
            process = self._status(process, "PPid")
        return _ROOT

    def _remember(self, process: int, credentials: Credentials) -> None:
        for other, (_, pidfd) in [*self._known.items()]:
            if other == process or _has_ended(pidfd):
                os.close(pidfd)
                del self._known[other]
        if credentials != _ROOT or self._known:  # root among those who are not would else inherit from one of them
            with contextlib.suppress(ProcessLookupError):
                self._known[process] = credentials, os.pidfd_open(process)

    def _process_of(self, thread: int) -> int:
        return self._status(thread, "Tgid")

    # -- what lies in other processes -----------------------------------------------------------------------------

    def _status(self, pid: int, field: str) -> int:
        try:
            with open(f"/proc/{pid}/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith(f"{field}:"))
        except OSError:  # it is gone
            return 0

    def _text(self, pid: int, address: int) -> bytes:
        data = self._memory(pid, address, _PATH_MAX, at_least=1)
        path, end, _ = data.partition(b"\0")
        if not end:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return path

    def _memory(self, pid: int, address: int, size: int, *, at_least: int | None = None) -> bytes:
        with self._opened_memory(pid, os.O_RDONLY) as fd:
            data = os.pread(fd, size, address) if size else b""
        if len(data) < (size if at_least is None else at_least):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data

    def _write(self, pid: int, address: int, data: bytes) -> None:
        with self._opened_memory(pid, os.O_WRONLY) as fd:
            if os.pwrite(fd, data, address) < len(data):
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    @contextlib.contextmanager
    def _opened_memory(self, pid: int, way: int) -> Any:
        fd = os.open(f"/proc/{pid}/mem", way | os.O_CLOEXEC)
        try:
            yield fd
        except OSError as error:
            raise OSError(errno.EFAULT if error.errno == errno.EIO else error.errno, error.strerror) from None
        finally:
            os.close(fd)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
