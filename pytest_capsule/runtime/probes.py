"""What a host can do, each thing found out by doing it in a process that is thrown away.

Called by name in a worker (``runtime.worker``), so in the supervisor's user namespace: arguments and values are plain.
Each probe gives a text that says what was found and raises ``OSError``, whose ``filename`` is the call, where the host
refuses. ``check.py`` knows what each of them is for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel, constants, inroot, mount, netlink, nftables, syscalls
from pytest_capsule._linux.seccomp import filters, notification
from pytest_capsule.network import bridge, outbound
from pytest_capsule.network.resolver import HOST_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Callable

_ALL = (
    constants.CLONE_NEWNS
    | constants.CLONE_NEWUTS
    | constants.CLONE_NEWIPC
    | constants.CLONE_NEWPID
    | constants.CLONE_NEWNET
    | constants.CLONE_NEWCGROUP
)
_NAMESPACES = {
    "mount": constants.CLONE_NEWNS,
    "PID": constants.CLONE_NEWPID,
    "network": constants.CLONE_NEWNET,
    "IPC": constants.CLONE_NEWIPC,
    "UTS": constants.CLONE_NEWUTS,
    "cgroup": constants.CLONE_NEWCGROUP,
}
_NO_FILE = 9999  # a descriptor that nothing has
_PORT = 7  # any that is in range
_PATIENCE = 5  # seconds for what is next to us to answer
_SAFE_MS = constants.MS_NOSUID | constants.MS_NODEV | constants.MS_NOEXEC


def nothing() -> str:
    """That there is somebody to ask: the supervisor lives, in a user namespace unless it is root's."""
    return ""


def another_user(uid: int, gid: int) -> str:
    """Become ``uid`` with the group ``gid`` alone."""

    def child() -> str:
        try:
            os.setgroups([gid])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"setresuid {uid}, setresgid {gid}") from None
        return ""

    return _thrown_away(0, child)


def namespace(kind: str) -> str:
    """Make one namespace: ``mount``, ``PID``, ``network``, ``IPC``, ``UTS`` or ``cgroup``."""
    return _thrown_away(_NAMESPACES[kind], lambda: "")


def overlay(folder: str, in_memory: bool) -> str:
    """Overlay a tree and change it: remove and make anew a directory of it, delete a file, write into another.

    ``folder`` is, here and below, an empty one of the store's own, and but for ``in_memory`` a tmpfs is mounted on it.
    """

    def child() -> str:
        _stand_in(folder, in_memory=in_memory)
        return _change_overlay()

    return _thrown_away(constants.CLONE_NEWNS, child)


def _change_overlay() -> str:
    for name in ("lower", "lower/directory", "upper", "work", "merged"):
        os.mkdir(name)
    for name in ("lower/directory/old", "lower/deleted", "lower/changed"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
    merged = mount.overlay([b"lower"], b"upper", b"work")
    mount.place(merged, os.open("merged", os.O_PATH | os.O_CLOEXEC), "merged")
    os.chdir("merged")
    for doing in _CHANGES:
        try:
            doing()
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{doing.__name__} {error.filename} in an overlay") from None
    seen = (sorted(os.listdir(".")), os.listdir("directory"))
    if seen != (["changed", "directory"], []):
        raise OSError(0, f"an overlay shows {seen} after a directory was made anew in it", "overlay")
    return ""


def _make_anew() -> None:
    os.unlink("directory/old")
    os.rmdir("directory")
    os.mkdir("directory")  # opaque: user.overlay.opaque is set


def _delete() -> None:
    os.unlink("deleted")  # a whiteout


def _change() -> None:
    with open("changed", "a") as file:
        file.write("more")  # copied up


_CHANGES: tuple[Callable[[], None], ...] = (_make_anew, _delete, _change)


def filesystem(folder: str, kind: str) -> str:
    """Mount what every container has: ``proc``, ``sysfs``, ``mqueue`` or ``devpts``."""

    def child() -> str:
        _stand_in(folder)
        os.mkdir("here")
        options = b"newinstance,ptmxmode=0666,mode=0620" if kind == "devpts" else None
        flags = _SAFE_MS if kind != "devpts" else constants.MS_NOSUID | constants.MS_NOEXEC
        flags |= constants.MS_RDONLY if kind == "sysfs" else 0  # where the host's own is so, no other is allowed
        syscalls.mount(kind.encode(), b"here", kind.encode(), flags, options)
        if kind == "devpts":
            os.close(os.open("here/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        return ""

    return _thrown_away(_ALL, child)


def devices(folder: str, userns: bool) -> str:
    """Have ``/dev/null`` on a mount of our own: made, or, in a user namespace, where none can be made, the host's."""

    def child() -> str:
        _stand_in(folder)
        if userns:
            target = os.open("null", os.O_CREAT | os.O_CLOEXEC, 0o666)
            mount.place(mount.bind(b"/dev/null"), target, "null")
        else:
            os.mknod("null", 0o20666, os.makedev(1, 3))
        with open("null", "wb", buffering=0) as null:
            null.write(b"nothing")
        return "bound from the host" if userns else "made"

    return _thrown_away(_ALL, child)


def root_directory(folder: str) -> str:
    """Take another root: what closes the host's files to a container."""

    def child() -> str:
        _stand_in(folder)
        syscalls.pivot_root(b".", b".")
        syscalls.umount(b".", constants.MNT_DETACH)
        if os.listdir("/"):
            raise OSError(0, "the old root shows through the new one", "pivot_root")
        return ""

    return _thrown_away(_ALL, child)


def paths(folder: str) -> str:
    """Resolve a path inside a root that its symlinks do not lead out of."""

    def child() -> str:
        _stand_in(folder)
        os.symlink("/../../inside", "link")
        os.mkdir("inside")
        root = os.open(".", os.O_PATH | os.O_CLOEXEC)
        os.close(inroot.open_inside(root, "link", os.O_PATH | os.O_DIRECTORY))
        return ""

    return _thrown_away(_ALL, child)


def process_descriptors() -> str:
    """Hold a process by a descriptor, kill it by that, and be told of its end."""

    def child() -> str:
        pid, pidfd = syscalls.clone(0)
        if pid == 0:
            signal.pause()
            os._exit(0)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED) is None:
            raise OSError(0, "no end of a process was told", "waitid P_PIDFD")
        return ""

    return _thrown_away(0, child)


def wires() -> str:
    """Connect over a bridge and a veth pair to another network namespace: as containers that talk to each other do."""

    def child() -> str:
        bridge.create_hub([("10.0.0.1", 24)], "02:00:00:00:00:01")
        hub = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with socket.create_server(("10.0.0.1", _PORT)) as listener:
            syscalls.unshare(constants.CLONE_NEWNET)
            own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            bridge.attach(hub, own, "c1", mac="02:00:00:00:00:02", addresses=[("10.0.0.2", 24)], gateways=["10.0.0.1"])
            _connect("10.0.0.1", listener)
        return "IPv4 and IPv6" if bridge.ipv6_available() else "IPv4 only"

    return _thrown_away(constants.CLONE_NEWNET, child)


def way_to_host() -> str:
    """Lead a connection by nftables: what ``host.capsule.internal`` needs."""

    def child() -> str:
        netlink.loopback_up()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nftables.redirect(HOST_ADDRESS, listener.getsockname()[1])
            _connect(HOST_ADDRESS, listener)
        return ""

    return _thrown_away(constants.CLONE_NEWNET, child)


def _connect(address: str, listener: socket.socket) -> None:
    """Connect to a port of ``address``, where that is to arrive at ``listener``."""
    try:
        with socket.create_connection((address, _PORT), _PATIENCE):
            listener.settimeout(_PATIENCE)
            listener.accept()[0].close()
    except OSError as error:
        raise OSError(error.errno or errno.ETIMEDOUT, error.strerror or "no answer", f"connect {address}") from None


def slow_network() -> str:
    """Delay packets by netem: what ``Network.shape`` needs for latency and loss."""

    def child() -> str:
        with netlink.RouteSocket() as route:
            route.set_netem("lo", latency=0.1, jitter=0.0, loss=0.0, rate=0)
        return ""

    return _thrown_away(constants.CLONE_NEWNET, child)


def way_out(program: str) -> str:
    """Have ``program`` lead another network namespace out: what ``network="bridge"`` needs."""

    def child() -> str:
        ours, theirs = channel.pair()
        pid, _ = syscalls.clone(constants.CLONE_NEWNET)
        if pid == 0:
            try:
                channel.send(theirs, {}, [os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)])
            finally:
                os._exit(0)
        (namespace,) = channel.answer(ours, _PATIENCE)[1]
        with outbound.start(program, namespace, "eth0") as running:
            running.kill()
        return program

    return _thrown_away(0, child)


def seccomp() -> str:
    """Be refused what the filter of every container forbids."""

    def child() -> str:
        syscalls.prctl(constants.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.seccomp(filters.default_filter(frozenset(), os.uname().machine))
        try:
            syscalls.unshare(constants.CLONE_NEWUTS)
        except PermissionError:
            return ""
        raise OSError(0, "a filter does not hold what is under it", "seccomp SECCOMP_SET_MODE_FILTER")

    return _thrown_away(0, child)


def answered_calls() -> str:
    """Answer a system call of another process, as a build with a single id does for those of owners."""

    def child() -> str:
        syscalls.prctl(constants.PR_SET_NO_NEW_PRIVS, 1)
        machine = os.uname().machine
        program = filters.feigned_root_filter(machine, handed_on=True)
        listener = notification.Listener(syscalls.seccomp(program, listen=True), filters.handed_on_names(machine))
        pid, _ = syscalls.clone(0)
        if pid == 0:
            try:
                os.fchown(_NO_FILE, 0, 0)
                os._exit(0)
            finally:
                os._exit(1)
        if call := listener.receive():
            listener.answer(call)
        if os.waitpid(pid, 0)[1]:
            raise OSError(0, "a system call was not answered", "seccomp SECCOMP_FILTER_FLAG_NEW_LISTENER")
        return ""

    return _thrown_away(0, child)


def _stand_in(folder: str, *, in_memory: bool = True) -> None:
    syscalls.mount(None, b"/", None, constants.MS_REC | constants.MS_PRIVATE)
    if in_memory:
        syscalls.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"mode=755")
    os.chdir(folder)


def _thrown_away(flags: int, probe: Callable[[], str]) -> str:
    """Run ``probe`` in a child in new namespaces and give what it gives, or raise what it raises."""
    ours, theirs = channel.pair()
    pid, pidfd = syscalls.clone(flags)
    if pid == 0:
        try:
            syscalls.prctl(constants.PR_SET_PDEATHSIG, signal.SIGKILL)
            _answer(theirs, probe)
        finally:
            os._exit(0)
    theirs.close()
    os.close(pidfd)
    try:
        with ours:
            value: str = channel.answer(ours)[0]["value"]
            return value
    finally:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _answer(sock: socket.socket, probe: Callable[[], Any]) -> None:
    try:
        channel.send(sock, {"value": probe()})
    except Exception as error:
        channel.send(sock, channel.failure(error))
