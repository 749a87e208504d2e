"""What this host can do for containers, each thing found out by doing it, never by a version."""

from __future__ import annotations

import contextlib
import errno as errnos
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_capsule import outbound
from pytest_capsule.errors import ALLOW_NAMESPACES, ASK_THE_CHECK, CapsuleError, UnsupportedHost
from pytest_capsule.runtime.cgroups import Cgroups
from pytest_capsule.runtime.freezer import Freezer
from pytest_capsule.runtime.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_capsule.engine import Engine

_HELLO_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that a host can do, or not.

    ``detail`` is what was found; where it does not work, ``syscall`` failed with ``errno`` and ``mend`` is what to do.
    ``needed`` says whether containers cannot be without it.
    """

    name: str
    works: bool
    detail: str = ""
    syscall: str = ""
    errno: int = 0
    mend: str = ""
    needed: bool = True

    @property
    def reason(self) -> str:
        """The failing call and its error, or what was found."""
        if self.works or not (self.syscall and self.errno):
            return self.detail
        code = errnos.errorcode.get(self.errno, str(self.errno))
        return f"{self.detail}{': ' if self.detail else ''}{self.syscall}: {os.strerror(self.errno)} ({code})"


@dataclass(frozen=True, slots=True)
class HostReport:
    """Everything that was tried; ``host`` is the kernel and the machine, ``identity`` who asked."""

    host: str
    identity: str
    abilities: tuple[Ability, ...]

    @property
    def works(self) -> bool:
        """Whether containers can run here."""
        return all(ability.works for ability in self.abilities if ability.needed)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        abilities = [asdict(ability) for ability in self.abilities]
        return {"works": self.works, "host": self.host, "identity": self.identity, "abilities": abilities}

    def table(self) -> str:
        """The report for a terminal: a line for each thing, with its mend beneath it where it does not work."""
        width = max(len(ability.name) for ability in self.abilities) + 2
        lines = [f"{self.host}, {self.identity}", ""]
        for ability in self.abilities:
            mark = "yes" if ability.works else "NO" if ability.needed else "no"
            lines.append(f"  {mark:<4} {ability.name:<{width}} {ability.reason}".rstrip())
            if not ability.works and ability.mend:
                lines.append(f"       {'':<{width}} -> {ability.mend}")
        return "\n".join((*lines, "", self._verdict()))

    def _verdict(self) -> str:
        if self.works:
            return "Containers work on this host."
        missing = ", ".join(ability.name for ability in self.abilities if ability.needed and not ability.works)
        return f"Containers do not work on this host. It lacks: {missing}."


def check_host(engine: Engine) -> HostReport:
    """Try everything; nothing of it is left behind."""
    system = os.uname()
    return HostReport(
        host=f"{system.sysname} {system.release} {system.machine}",
        identity=_identity(engine),
        abilities=tuple(_abilities(engine)),
    )


def _identity(engine: Engine) -> str:
    if engine.ids.kind == "root":
        return "root"
    return f"user {os.getuid()}, " + ("with a range of ids" if engine.ids.kind == "range" else "with a single id")


def _abilities(engine: Engine) -> Iterator[Ability]:
    *basis, last = _supervisor(engine)
    yield from (*basis, last)
    yield _users(engine, last.works)
    if last.works:  # else nothing beneath it can even be tried
        for name, mend in _NAMESPACE_MENDS.items():
            yield _tried(f"{name} namespace", partial(engine.probe, "namespace", name), mend)
        yield from _files(engine)
        yield _tried("process descriptors", partial(engine.probe, "process_descriptors"), "Linux 5.4 or newer")
        yield _tried("container network", partial(engine.probe, "wires"), "as root: modprobe -a veth bridge")
        yield _tried(
            "way to the host", partial(engine.probe, "way_to_host"), "as root: modprobe nft_redir", needed=False
        )
        yield _tried(
            "slow networks", partial(engine.probe, "slow_network"), "as root: modprobe sch_netem", needed=False
        )
        yield _way_out(engine)
        yield _tried("seccomp", partial(engine.probe, "seccomp"), "a kernel with CONFIG_SECCOMP_FILTER")
        yield _tried("feigned owners", partial(engine.probe, "answered_calls"), _FEIGNED_LESS, needed=False)
        yield _tried("hello-world", partial(_run_hello_world, engine), "what is missing above")
    yield from _limits()
    yield _freezer()


def _files(engine: Engine) -> Iterator[Ability]:
    """What a root filesystem is made of."""
    yield _overlay(engine, "overlay in memory", in_memory=True)
    yield _overlay(engine, "overlay on the cache", in_memory=False)
    with engine.scratch() as folder:
        probe = partial(partial, engine.probe)
        yield _tried("devices", probe("devices", str(folder), engine.ids.kind != "root"), ALLOW_NAMESPACES)
        for kind, mend in _FILESYSTEM_MENDS.items():
            yield _tried(kind, probe("filesystem", str(folder), kind), mend)
        yield _tried("root directory", probe("root_directory", str(folder)), ALLOW_NAMESPACES)
        yield _tried("paths inside a root", probe("paths", str(folder)), "Linux 5.6 or newer")


def _tried(name: str, probe: Callable[[], str], mend: str, *, needed: bool = True) -> Ability:
    try:
        return Ability(name, True, probe(), needed=needed)
    except UnsupportedHost as error:
        return Ability(name, False, error.reason, error.syscall, error.errno, error.hint or mend, needed)
    except CapsuleError as error:
        hint = None if error.hint == ASK_THE_CHECK else error.hint
        return Ability(name, False, error.message, mend=hint or mend, needed=needed)
    except OSError as error:
        detail = "" if error.errno and error.filename else error.strerror or str(error)
        return Ability(
            name, False, detail, str(error.filename or ""), error.errno or 0, _mend(error, mend), needed=needed
        )


_ANYBODY = 65534  # the highest id that every tool knows
_LIMITS = Limits(memory=64 << 20, cpus=0.5, pids=10)
_NO_TUN = "where /dev/net/tun is at fault: chmod 0666 /dev/net/tun, as root"
_FEIGNED_LESS = "Linux 5.9 or newer, and no other listener to system calls around: builds feign success alone"
_DELEGATE = "systemd-run --user --scope -p Delegate=yes pytest ..."
_UNMASKED = (
    "something is mounted over the host's own: inside Docker, --privileged or --security-opt systempaths=unconfined"
)
_NAMESPACE_MENDS = {
    name: f"as root: sysctl -w user.max_{short}_namespaces=15000"
    for name, short in (
        ("mount", "mnt"),
        ("PID", "pid"),
        ("network", "net"),
        ("IPC", "ipc"),
        ("UTS", "uts"),
        ("cgroup", "cgroup"),
    )
}
_FILESYSTEM_MENDS = {
    "proc": _UNMASKED,
    "sysfs": _UNMASKED,
    "devpts": "a kernel with CONFIG_UNIX98_PTYS",
    "mqueue": "a kernel with CONFIG_POSIX_MQUEUE",
}


def _mend(error: OSError, mend: str) -> str:
    """What helps against an error of the kernel: a refusal is often that of the container that we run in."""
    if error.errno == errnos.EPERM and mend != _UNMASKED:
        return ALLOW_NAMESPACES
    return mend


def _supervisor(engine: Engine) -> Iterator[Ability]:
    """Whether the supervisor can be started: all the rest is tried in a child of it."""
    tried = _tried("user namespace", partial(engine.probe, "nothing"), ALLOW_NAMESPACES)
    program = Ability("program in memory", True)
    if tried.syscall == "execve":
        yield replace(tried, name=program.name)
        return
    yield program
    found = "not needed: root" if engine.ids.kind == "root" else "made"
    yield replace(tried, detail=found) if tried.works else tried


def _users(engine: Engine, can_be_tried: bool) -> Ability:
    """Whether a command inside can be another user than root, tried as the last that there can be."""
    ids, name = engine.ids, "users"
    if ids.kind != "single":
        uid, gid = (found[1] if found else _ANYBODY for found in (ids.uids, ids.gids))
        found = "all, as on the host" if ids.kind == "root" else f"root and {uid} others, by newuidmap"
        if not can_be_tried:
            return Ability(name, False, f"not tried: {found}", needed=False)
        tried = _tried(name, partial(engine.probe, "another_user", uid, gid), ALLOW_NAMESPACES, needed=False)
        return replace(tried, detail=found) if tried.works else tried
    mend = "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
    tools = [tool for tool in ("newuidmap", "newgidmap") if shutil.which(tool) is None]
    if tools:
        mend = f"install the package with {' and '.join(tools)} (Debian: uidmap, Fedora: shadow-utils), then {mend}"
    detail = "root only: builds feign other users, a container that is to run as one fails"
    return Ability(name, False, detail, mend=mend, needed=False)


def _overlay(engine: Engine, name: str, *, in_memory: bool) -> Ability:
    mend = "Linux 6.6 or newer, with overlay: as root, modprobe overlay"  # before, tmpfs keeps no attributes of users
    if not in_memory:
        mend = f"put the cache, now {engine.cache_dir}, on ext4, xfs, btrfs or tmpfs with --cache-dir"
    with engine.scratch() as folder:
        probe = partial(engine.probe, "overlay", str(folder), in_memory)
        # Without it the other serves, and without both a copy: slower (see stacking.py).
        return _tried(name, probe, f"{mend}; without, starts and builds are slower", needed=False)


def _way_out(engine: Engine) -> Ability:
    """The first of the programs that can do it here, else what the first that is installed said."""
    name = "way out"
    failed: Ability | None = None
    for program in outbound.installed():
        tried = _tried(name, partial(engine.probe, "way_out", program), _NO_TUN, needed=False)
        if tried.works:
            return tried
        failed = failed or replace(tried, detail=f"{os.path.basename(program)}: {tried.detail}")
    detail = 'not installed: network="bridge" is the host\'s network; containers need none for themselves'
    return failed or Ability(name, False, detail, mend=outbound.INSTALL, needed=False)


def _run_hello_world(engine: Engine) -> str:
    with engine.run("hello-world") as container:
        code = container.wait(_HELLO_SECONDS)
        said = container.logs()
    if code != 0 or "Hello from" not in said:
        raise UnsupportedHost(f"it ended with exit code {code} and said {said!r}")
    return said.strip().splitlines()[0]


def _limits() -> Iterator[Ability]:
    """Which limits the kernel can enforce. Where it is none, they are watched over: that is no lack of containers."""
    cgroups, label = Cgroups(), _label()
    try:
        with _bystander() as pid:
            _, refused = cgroups.enclose(pid, label, _LIMITS)
    finally:
        cgroups.remove(label)
    for limit in _LIMITS.asked():
        yield _by_control_groups(f"limit of {limit}", refused.get(limit), "only watched over")


def _freezer() -> Ability:
    """Whether ``pause`` can do without a signal."""
    freezer: Freezer | None = None
    refused: OSError | None = None
    with _bystander() as pid:
        try:
            freezer = Freezer(Cgroups().unified(), _label())
            freezer.freeze(lambda: [pid])
        except OSError as error:
            refused = error
    if freezer is not None:
        freezer.remove()
    return _by_control_groups("freezer", refused, "a pause stops processes by SIGSTOP")


def _by_control_groups(name: str, refused: OSError | None, otherwise: str) -> Ability:
    if refused is None:
        return Ability(name, True, "by a control group", needed=False)
    if refused.errno == errnos.EROFS:
        mend = "inside Docker, --privileged: it shows a container its control groups read-only"
    elif refused.errno == errnos.ENOENT:
        mend = "a kernel that has it, started with control groups v2: systemd.unified_cgroup_hierarchy=1"
    else:
        mend = _DELEGATE
    call = str(refused.filename or "")
    return Ability(name, False, otherwise, call, refused.errno or 0, mend, needed=False)


@contextlib.contextmanager
def _bystander() -> Iterator[int]:
    """The id of a process that does nothing, to be put into control groups."""
    words = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        try:
            yield process.pid
        finally:
            process.kill()  # what is frozen too


def _label() -> str:
    return f"check-{time.monotonic_ns()}"
