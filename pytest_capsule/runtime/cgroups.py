"""Control groups: where this process may make some, and one for each container that has a limit.

Both versions, also beside each other (systemd's "hybrid"): a controller belongs either to a v1 hierarchy of its own or
to the one v2 tree (cgroups(7)). What is possible is found out by doing it: the directory is made, the limit written,
the process moved. A group is empty and removed when its container is gone; its name tells whose it was, so that what a
killed engine has left is recognised (``remove_leftovers``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_capsule.runtime.limits import Limits

CONTROLLERS = {"memory": "memory", "cpus": "cpu", "pids": "pids"}
_PERIOD = 100_000  # microseconds, the kernel's and Docker's default
_NAME = re.compile(r"pytest-capsule-(\d+)-(\d+)-(\d+)-")  # the engine's PID namespace, pid and start time
_PATIENCE = 2.0  # seconds: a dead process leaves its group some time after its end was seen


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A tree of groups: its ``version``, where it is mounted, and this process' own group in it."""

    version: int
    mount: Path
    own: Path

    def upwards(self) -> Iterator[Path]:
        """The own group and those around it, the nearest first."""
        yield self.own
        if self.own != self.mount:
            for parent in self.own.parents:
                yield parent
                if parent == self.mount:
                    return


@dataclass(frozen=True, slots=True)
class Group:
    """A directory in which one or more controllers hold a container."""

    version: int
    directory: Path


def hierarchies(cgroup: str, mountinfo: str) -> dict[str, Hierarchy]:
    """The hierarchies of a process by v1 controller, v2's as ``""``, from its ``/proc`` files of these names."""
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mount = (_unescaped(field) for field in before.split()[3:5])
        for name in [""] if kind == "cgroup2" else options.split(","):
            beneath = _relative(paths.get(name, ""), root)
            if beneath is not None and name not in found:
                found[name] = Hierarchy(2 if kind == "cgroup2" else 1, Path(mount), Path(mount, beneath))
    return found


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)  # proc(5), mountinfo


def _relative(path: str, root: str) -> str | None:
    """``path`` as seen from a mount that shows ``root``; ``None`` where it shows another part of the tree."""
    if not path or ".." in path.split("/"):  # a group outside of this process' cgroup namespace
        return None
    if path == root or root == "/" or path.startswith(f"{root}/"):
        return path[len(root.rstrip("/")) :].lstrip("/")
    return None


class Cgroups:
    """Where this process may make groups, looked up when it is needed. ``proc`` is the folder ``/proc/self``."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc

    def enclose(self, pid: int, label: str, limits: Limits) -> tuple[Cgroup, dict[str, OSError]]:
        """Put a process into a new group with as many of ``limits`` as the host allows.

        Returns the group, and for each limit (``memory``, ``cpus``, ``pids``) that it does not hold, why.
        """
        wanted = limits.asked()
        groups, refused = self._make([CONTROLLERS[name] for name in wanted], _own_prefix() + label)
        failures = {name: refused[CONTROLLERS[name]] for name in wanted if CONTROLLERS[name] in refused}
        for name in wanted.keys() - failures.keys():
            try:
                configure(groups[CONTROLLERS[name]], name, limits)
            except OSError as error:
                failures[name] = error
        for directory in {group.directory for group in groups.values()}:
            held = [name for name in wanted if groups.get(CONTROLLERS[name], _NOWHERE).directory == directory]
            try:
                if any(name not in failures for name in held):
                    write(directory / "cgroup.procs", str(pid))
                    continue
            except OSError as error:
                failures.update((name, error) for name in held if name not in failures)
            _remove(directory, 0)
        return Cgroup({name: groups[CONTROLLERS[name]] for name in wanted if name not in failures}), failures

    def remove(self, label: str) -> None:
        """Remove what ``enclose`` has made or begun to make of this label; its processes are gone, or about to be."""
        for place in self._places():
            remove(place / (_own_prefix() + label))

    def unified(self) -> Path:
        """This process' own group in the v2 tree; ``FileNotFoundError`` where there is none."""
        found = self._hierarchies()
        if "" not in found:
            raise FileNotFoundError(errno.ENOENT, "no hierarchy of control groups v2 is mounted")
        return found[""].own

    def remove_leftovers(self) -> None:
        """Remove the groups of engines that are no more, next to where this process makes its own."""
        for place in self._places():
            with contextlib.suppress(OSError):
                for name in os.listdir(place):
                    if _is_leftover(name):
                        _remove(place / name, _PATIENCE / 10)

    def _places(self) -> set[Path]:
        """The groups in which ``enclose`` may make one."""
        try:
            found = self._hierarchies()
        except OSError:
            return set()
        places = {found[name].own for name in CONTROLLERS.values() if name in found}
        return places | set(found[""].upwards()) if "" in found else places

    def _hierarchies(self) -> dict[str, Hierarchy]:
        return hierarchies((self._proc / "cgroup").read_text(), (self._proc / "mountinfo").read_text())

    def _make(self, controllers: Sequence[str], name: str) -> tuple[dict[str, Group], dict[str, OSError]]:
        try:
            found = self._hierarchies()
        except OSError as error:
            return {}, dict.fromkeys(controllers, error)
        groups: dict[str, Group] = {}
        refused: dict[str, OSError] = {}
        for controller in (one for one in controllers if one in found):
            directory = found[controller].own / name
            try:
                directory.mkdir(exist_ok=True)  # there already where two controllers share a hierarchy
                groups[controller] = Group(1, directory)
            except OSError as error:
                refused[controller] = _told(error, "mkdir", directory)
        rest = [one for one in controllers if one not in found]
        if rest and "" in found:
            made, why = make_unified(found[""], rest, name)
            groups.update({controller: Group(2, directory) for controller, directory in made.items()})
            refused.update(why)
        elif rest:
            absent = OSError(errno.ENOENT, "no hierarchy of control groups with this controller is mounted")
            refused.update(dict.fromkeys(rest, absent))
        return groups, refused


_NOWHERE = Group(0, Path())


def make_unified(
    hierarchy: Hierarchy, controllers: Sequence[str], name: str
) -> tuple[dict[str, Path], dict[str, OSError]]:
    """A v2 group ``name`` with as many of ``controllers`` as can be had, as near to the own group as can be.

    In v2 a group that holds processes hands no controllers to groups in it (the no-internal-process rule), so it is
    rarely the own group that the new one is made in, but one around it that this user may write to: as root any, else
    one that was delegated. The directory by controller, and for each other controller why not.
    """
    best: tuple[list[str], Path] | None = None
    refused: dict[str, OSError] = {}
    for place in hierarchy.upwards():
        granted = [one for one in controllers if _granted(place, one, hierarchy, refused)]
        if granted and (best is None or len(granted) > len(best[0])):
            directory = place / name
            try:
                directory.mkdir()
            except OSError as error:
                for controller in granted:
                    refused.setdefault(controller, _told(error, "mkdir", directory))
                continue
            if best is not None:
                _remove(best[1], 0)
            best = granted, directory
            if len(granted) == len(controllers):
                break
    made = dict.fromkeys(best[0], best[1]) if best else {}
    return made, {controller: error for controller, error in refused.items() if controller not in made}


def _granted(place: Path, controller: str, hierarchy: Hierarchy, refused: dict[str, OSError]) -> bool:
    """Whether groups in ``place`` have the controller, given to them now if it must be and can be."""
    switch = place / "cgroup.subtree_control"
    try:
        if not os.access(place, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), f"mkdir in {place}")
        if controller not in (place / "cgroup.controllers").read_text().split():
            raise OSError(errno.ENOENT, f"no controller {controller} there", f"write {switch}")
        if _is_occupied(place):
            # Asked before writing: cpu and pids could be switched on, and would make it "threaded" (cgroups(7)), in
            # which a container has no place.
            if not _is_namespace_root(hierarchy, place):
                raise OSError(errno.EBUSY, "it holds processes", f"write {switch}")
            _make_room(place)
        if controller not in switch.read_text().split():
            write(switch, f"+{controller}")
    except OSError as error:
        refused.setdefault(controller, _told(error, "write", switch))
        return False
    return True


def _is_occupied(place: Path) -> bool:
    """Whether processes are in it; the machine's topmost group, which has no ``cgroup.type``, may have some."""
    return (place / "cgroup.type").exists() and bool((place / "cgroup.procs").read_text())


def _is_namespace_root(hierarchy: Hierarchy, place: Path) -> bool:
    """Whether this is all that a container shows of the tree: what is in it is then the container's own."""
    return place == hierarchy.own == hierarchy.mount


def _make_room(place: Path) -> None:
    """Move the processes of a container's topmost group one down, as the entry point of Docker's own ``dind`` does."""
    inner = place / "pytest-capsule-processes"
    inner.mkdir(exist_ok=True)
    for pid in (place / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            write(inner / "cgroup.procs", pid)


def configure(group: Group, name: str, limits: Limits) -> None:
    """Write the limit ``name`` into a group, as runc does for Docker; ``OSError`` when the kernel refuses it."""
    if name == "memory" and limits.memory is not None:
        memory = limits.memory  # and as much again of swap, as Docker does for --memory alone
        first, second = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        swap = 2 * memory
        if group.version == 2:
            first, second, swap = "memory.max", "memory.swap.max", memory
        write(group.directory / first, str(memory))
        with contextlib.suppress(FileNotFoundError):  # a kernel that does not account for swap
            write(group.directory / second, str(swap))
    if name == "cpus" and limits.cpus is not None:
        quota = round(limits.cpus * _PERIOD)
        if group.version == 2:
            write(group.directory / "cpu.max", f"{quota} {_PERIOD}")
        else:
            write(group.directory / "cpu.cfs_period_us", str(_PERIOD))
            write(group.directory / "cpu.cfs_quota_us", str(quota))
    if name == "pids" and limits.pids is not None:
        write(group.directory / "pids.max", str(limits.pids + 1))  # init is ours, not the container's


class Cgroup:
    """The groups that hold one container, by limit; none where the host enforces none."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        self.groups = dict(groups)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed because ``memory`` was used up."""
        if "memory" not in self.groups:
            return 0
        file = "memory.events" if self.groups["memory"].version == 2 else "memory.oom_control"
        return self._counter("memory", file, "oom_kill")

    def usage(self) -> dict[str, float]:
        """What it accounts for: ``memory`` in bytes without idle file cache, ``cpu`` in seconds, ``pids``."""
        found: dict[str, float] = {}
        for name, read in (("memory", self._memory), ("cpu", self._cpu), ("pids", self._pids)):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found[name] = read()
        return found

    def _memory(self) -> float:
        unified = self.groups["memory"].version == 2
        held = self._number("memory", "memory.current" if unified else "memory.usage_in_bytes")
        idle = self._counter("memory", "memory.stat", "inactive_file" if unified else "total_inactive_file")
        return max(0, held - idle)  # docker/cli, calculateMemUsageUnixNoCache

    def _cpu(self) -> float:
        for group in self.groups.values():
            if group.version == 2:
                return _counter(group.directory / "cpu.stat", "usage_usec") / 1e6
        return self._number("cpus", "cpuacct.usage") / 1e9  # there where cpuacct shares the hierarchy of cpu

    def _pids(self) -> float:
        return max(0, self._number("pids", "pids.current") - 1)  # init is ours, not the container's

    def _number(self, name: str, file: str) -> int:
        return int((self.groups[name].directory / file).read_text())

    def _counter(self, name: str, file: str, key: str) -> int:
        return _counter(self.groups[name].directory / file, key)

    def unified(self) -> Path | None:
        """The v2 group that holds the container, if one does."""
        return next((group.directory for group in self.groups.values() if group.version == 2), None)


def make_beneath(place: Path, label: str) -> Path:
    """A new v2 group in the group ``place``, named so that it is recognised when this process is killed."""
    directory = place / (_own_prefix() + label)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise _told(error, "mkdir", directory) from None
    return directory


def remove(directory: Path) -> None:
    """Remove a group whose processes are gone, or about to be."""
    _remove(directory, _PATIENCE)


def _counter(path: Path, key: str) -> int:
    """The number after ``key`` in a file of lines ``key number``; 0 where it has none."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), 0)


def write(path: Path, text: str) -> None:
    """Write into a file of a group; an ``OSError`` names the call."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise _told(error, f"write {text!r} to", path) from None


def _told(error: OSError, call: str, path: Path) -> OSError:
    """The same error with the call and its path as ``filename``."""
    if error.filename is not None and " " in str(error.filename):
        return error
    return OSError(error.errno, error.strerror, f"{call} {path}")


def _remove(directory: Path, patience: float) -> bool:
    """Remove a group and what was made in it; whether it is gone. Waits ``patience`` seconds for it to be empty."""
    deadline = time.monotonic() + patience
    pause = 0.0005
    while True:
        try:
            with os.scandir(directory) as entries:
                inner = [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
            for one in inner:
                _remove(one, 0)
            os.rmdir(directory)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _own_prefix() -> str:
    pid = os.getpid()
    return f"pytest-capsule-{_pid_namespace()}-{pid}-{_start_time(pid)}-"


def _is_leftover(name: str) -> bool:
    """Whether a group's name says that an engine made it which is no more; of another PID namespace nobody can tell."""
    match = _NAME.match(name)
    if match is None or int(match[1]) != _pid_namespace():
        return False
    try:
        return _start_time(int(match[2])) != int(match[3])
    except OSError:
        return True


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_time(pid: int) -> int:
    """When a process began, in clock ticks since the boot: together with its id its name for good (proc(5), stat)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])
