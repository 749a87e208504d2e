"""Commands as init starts them: who the user is, what environment it gets, and one vfork and exec.

Init has taken the container's restrictions on itself (capabilities, ``no_new_privs``), so a command only inherits them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_capsule.runtime import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HIGHEST_ID = (1 << 31) - 1  # Docker's too
_CLOCK_TICK = 50_000_000  # nanoseconds: times of files are only as fine as the kernel's tick


class Account(NamedTuple):
    """A user inside a container, as ``/etc/passwd`` and ``/etc/group`` of the image describe it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class Accounts:
    """The users of a container, looked up anew when ``/etc/passwd`` or ``/etc/group`` is not as it was."""

    def __init__(self) -> None:
        self._state: tuple[tuple[int, ...], ...] = ()
        self._known: dict[str, Account] = {}

    def find(self, user: str) -> Account:
        """``account``, as a rule without reading those files."""
        state = _state("/etc/passwd"), _state("/etc/group")
        if state != self._state:
            self._state, self._known = state, {}
        if user not in self._known:
            found = account(user)
            if any(time.time_ns() - changed < _CLOCK_TICK for changed, *_ in state):
                return found  # the next change could bear the same time
            self._known[user] = found
        return self._known[user]


def _state(path: str) -> tuple[int, ...]:
    try:
        info = os.stat(path)
    except OSError:
        return (0,)
    return info.st_ctime_ns, info.st_dev, info.st_ino, info.st_size


def account(user: str) -> Account:
    """Resolve Docker's ``user[:group]``, each a name or a number; ``OSError`` (EINVAL) names what the image lacks.

    The rules are those of moby/sys/user ``GetExecUser``: a number need not exist and then has group 0 and home ``/``.
    """
    name, _, group = user.partition(":")
    uid, gid, login, home = _user(name or "0")
    groups = _rows("/etc/group", 4, login) if login and not group else ()
    others = tuple(int(row[2]) for row in groups if login in row[3].split(","))
    found = Account(uid, _group(group) if group else gid, others, home)
    if max(found.uid, found.gid, *found.groups) > _HIGHEST_ID:
        raise OSError(errno.EINVAL, f"ids go up to {_HIGHEST_ID}", user)
    return found


def owner(user: str) -> tuple[tuple[int, int], list[str]]:
    """Whom ``user[:group]`` makes files belong to, and what the image lacks for it.

    The rules are those of BuildKit (``llbsolver/file/user_linux.go``): a name that the image does not have is root's,
    and a number says nothing about the group.
    """
    name, _, group = user.partition(":")
    uid, gid = 0, 0
    lacks: list[str] = []
    try:
        if name.isdecimal():
            uid = int(name)
        elif name:
            uid, gid, _, _ = _user(name)
    except OSError as error:
        lacks.append(str(error.strerror))
    try:
        if group:
            gid = _group(group)
    except OSError as error:
        lacks.append(str(error.strerror))
    return (uid, gid), lacks


def _rows(path: str, columns: int, word: str) -> list[list[str]]:
    """The rows with ``word`` in them, in whichever column: most rows are not worth being taken apart."""
    rows = [line.split(":") for line in files.read_small(path).split("\n") if word in line]
    return [row for row in rows if len(row) >= columns and row[2].isdecimal()]


def _user(name: str) -> tuple[int, int, str, str]:
    rows = _rows("/etc/passwd", 4, str(int(name)) if name.isdecimal() else name)
    for row in rows:
        if row[0] == name and row[3].isdecimal():
            return int(row[2]), int(row[3]), row[0], row[5] if len(row) > 5 else "/"
    if not name.isdecimal():
        raise OSError(errno.EINVAL, f"no user {name!r} in the image's /etc/passwd", name)
    for row in rows:
        if int(row[2]) == int(name) and row[3].isdecimal():
            return int(row[2]), int(row[3]), row[0], row[5] if len(row) > 5 else "/"
    return int(name), 0, "", "/"


def _group(name: str) -> int:
    for row in _rows("/etc/group", 3, name):
        if row[0] == name:
            return int(row[2])
    if name.isdecimal():
        return int(name)
    raise OSError(errno.EINVAL, f"no group {name!r} in the image's /etc/group", name)


def start(
    message: dict[str, Any],
    stdio: list[int],
    accounts: Accounts,
    *,
    many_ids: bool,
    enter: Callable[[], object] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``message["argv"]`` with the three descriptors of ``stdio``.

    ``message``: ``argv``, ``env`` (the whole environment but HOME), ``cwd``, ``user`` (``user[:group]``), ``tty``.
    ``enter`` is called in its process before it is executed, for one whose ids are feigned.
    An ``OSError`` has as its ``filename`` what was wrong: ``user``, ``ids`` (there are none but root), ``workdir`` or
    ``command``.
    """
    with _about("user"):
        who = accounts.find(message["user"])
    env: dict[str, str] = dict(message["env"])
    env.setdefault("HOME", who.home)
    identity: dict[str, Any] = {}
    if not many_ids:
        if enter is None and (who.uid, who.gid) != (0, 0):
            raise OSError(errno.EINVAL, f"user {message['user']!r} needs a range of ids", "ids")
    elif (who.uid, who.gid, who.groups) != (0, 0, ()):
        # The own group is one of the additional ones too, so that nobody gets rid of it by a setgid program
        # (CVE-2022-36109).
        groups = dict.fromkeys((who.gid, *who.groups))
        identity = {"user": who.uid, "group": who.gid, "extra_groups": tuple(groups)}
    first = [step for step in (_take_terminal if message["tty"] else None, enter) if step is not None]
    with _about("workdir"):
        workdir = files.open_file(message["cwd"], os.O_PATH | os.O_DIRECTORY, 0)
    try:
        # Init stands in the directory itself: its path is never resolved outside (CVE-2024-21626).
        os.fchdir(workdir)
        _give_pipes(stdio, who.uid, terminal=message["tty"])
        with _about("command"):
            return subprocess.Popen(
                message["argv"],
                stdin=stdio[0],
                stdout=stdio[1],
                stderr=stdio[2],
                env=env,
                umask=0o022,
                start_new_session=True,
                preexec_fn=(lambda: [step() for step in first]) if first else None,  # else it is a vfork
                **identity,
            )
    finally:
        os.chdir("/")
        os.close(workdir)


@contextlib.contextmanager
def _about(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, what) from None
    except (ValueError, subprocess.SubprocessError, OverflowError) as error:  # a NUL in a word, a "=" in a name
        raise OSError(errno.EINVAL, str(error), what) from None


def _give_pipes(stdio: list[int], uid: int, *, terminal: bool) -> None:
    """Pipes and terminals belong to the user, who else could not open ``/dev/stdout`` (runc: fixStdioPermissions)."""
    for fd in {*stdio} if uid else ():
        if terminal or stat.S_ISFIFO(os.fstat(fd).st_mode):
            with contextlib.suppress(OSError):
                os.fchown(fd, uid, -1)


class Victims:
    """What starts in its ``with`` block dies of a full memory before init does, however small it is beside init.

    Raising and taking back ``oom_score_adj`` needs no capability, but of a process that is not dumpable only the host's
    root may open it (proc(5)): so this is to be made while init is dumpable.
    """

    def __init__(self) -> None:
        self._score: int | None = None
        self._own = b"0"
        with contextlib.suppress(OSError):
            self._score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._own = os.pread(self._score, 16, 0)

    def __enter__(self) -> None:
        self._set(b"1000")

    def __exit__(self, *_: object) -> None:
        self._set(self._own)

    def _set(self, score: bytes) -> None:
        if self._score is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._score, score, 0)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def open_terminal() -> tuple[int, int]:
    """A pseudo-terminal of the container's own ``devpts``: the master, for the test, and the command's side.

    The command's side is opened from the master (``TIOCGPTPEER``), never by a path inside (CVE-2025-52565).
    """
    master = files.open_file("/dev/pts/ptmx", os.O_RDWR, 0)
    fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
