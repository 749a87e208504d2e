"""A container's filesystem tree, put together by its init in two movements.

``prepare`` makes all that needs no image (a writable tmpfs, ``/dev``, ``/proc``, ``/sys``) while nobody waits;
``assemble`` adds the overlay of the layers, moves the prepared mounts beneath it and pivots. Whatever is found in the
image's tree is resolved inside it and mounted on by descriptor, so that an image whose ``/proc`` or ``/etc/hosts`` is a
symlink leads nowhere (CVE-2019-19921, CVE-2023-27561).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Any, NamedTuple

from pytest_capsule._linux import constants, mount, syscalls
from pytest_capsule.runtime import mounting

_SAFE_MOUNT = mounting.SAFE
_SAFE_MS = constants.MS_NOSUID | constants.MS_NODEV | constants.MS_NOEXEC

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_OWN_DEVICE_FOLDERS = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# moby, oci/defaults.go: what a container may not see and what it may not write
_MASKED = (
    b"proc/acpi proc/asound proc/interrupts proc/kcore proc/keys proc/latency_stats proc/timer_list proc/timer_stats "
    b"proc/sched_debug proc/scsi sys/firmware sys/devices/virtual/powercap"
).split()
_TEXTS = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_READ_ONLY = b"proc/bus proc/fs proc/irq proc/sys proc/sysrq-trigger".split()
_REMOUNT_READ_ONLY = constants.MS_REMOUNT | constants.MS_BIND | constants.MS_RDONLY | _SAFE_MS


class Identity(NamedTuple):
    """Who root inside is, seen from the host: ``userns`` when not the host's root, ``many_ids`` when users exist."""

    userns: bool
    many_ids: bool


class Text(NamedTuple):
    """A file of the container's own: a descriptor to write it with, and the file as a mount that is not placed yet.

    One that a container does without stays so until init ends: the kernel unmounts what is closed, and waits
    milliseconds for a grace period with that.
    """

    fd: int
    mount: int

    @classmethod
    def create(cls, name: str) -> Text:
        """An empty one, in the directory that is prepared for them."""
        fd = os.open(f"etc/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return cls(fd, mount.bind(f"etc/{name}".encode()))

    def place(self, text: str, target: int, path: str, *, read_only: bool) -> None:
        """Fill it and put it where it is to be seen; all descriptors are closed."""
        _write(self.fd, text.encode("utf-8", "surrogateescape"))
        if read_only:
            syscalls.mount_setattr(self.mount, add=constants.MOUNT_ATTR_RDONLY)
        mount.place(self.mount, target, path)


def _write(fd: int, data: bytes) -> None:
    """Write all of it, and close: by plain calls, since a fresh init pays for each page of Python that it touches."""
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "write")
    finally:
        os.close(fd)


Texts = dict[str, Text]


def prepare(mountpoint: bytes, identity: Identity, *, privileged: bool, host_network: bool) -> Texts:
    """Mount a tmpfs at ``mountpoint``, stand in it, and make ``dev``, ``proc``, ``sys`` and the usual texts there."""
    os.umask(0)
    syscalls.mount(b"tmpfs", mountpoint, b"tmpfs", constants.MS_NODEV if identity.userns else 0, b"mode=755")
    os.chdir(mountpoint)
    for name in ("root", "dev", "nodes", "proc", "sys", "etc"):
        os.mkdir(name)
    _prepare_dev(identity, privileged=privileged)
    syscalls.mount(b"proc", b"proc", b"proc", _SAFE_MS)
    if not host_network:
        _free_low_ports(ping=not identity.userns)
    _prepare_sys(writable=privileged, own_network=not host_network or not identity.userns)
    if not privileged:
        _restrict_kernel_files()
    return {path: Text.create(path.replace("/", "-")) for path in _TEXTS}


def _prepare_dev(identity: Identity, *, privileged: bool) -> None:
    # Docker's capabilities let root make any device node, and its cgroup keeps it from opening most. Here no mount that
    # a container can write to knows devices: each of those that it may have is a mount of its own.
    flags = constants.MS_NOSUID | (0 if privileged and not identity.userns else constants.MS_NODEV)
    syscalls.mount(b"tmpfs", b"dev", b"tmpfs", flags, b"mode=755,size=65536k")
    for name, (major, minor) in _DEVICES.items():
        source = f"/dev/{name}"
        if not identity.userns:  # in a user namespace no node can be made; the host's can be bound
            source = f"nodes/{name}"
            os.mknod(source, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.mknod(f"dev/{name}", stat.S_IFREG | 0o666)
        syscalls.mount(source.encode(), b"dev/" + name.encode(), None, constants.MS_BIND)
    for name, target_path in _DEVICE_LINKS.items():
        os.symlink(target_path, f"dev/{name}")
    if os.path.exists("/proc/kcore"):
        os.symlink("/proc/kcore", "dev/core")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"dev/{name}")
    tty_group = b",gid=5" if identity.many_ids else b""
    options = b"newinstance,ptmxmode=0666,mode=0620" + tty_group
    syscalls.mount(b"devpts", b"dev/pts", b"devpts", constants.MS_NOSUID | constants.MS_NOEXEC, options)
    syscalls.mount(b"shm", b"dev/shm", b"tmpfs", _SAFE_MS, b"mode=1777,size=65536k")
    syscalls.mount(b"mqueue", b"dev/mqueue", b"mqueue", _SAFE_MS)
    if privileged:
        _give_host_devices("/dev", bound=identity.userns)


def _give_host_devices(folder: str, *, bound: bool) -> None:
    """What a privileged container has besides: moby, ``devices.HostDevices``; ``bound`` where no node can be made."""
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            info, own = entry.stat(follow_symlinks=False), entry.path.lstrip("/")
            if stat.S_ISDIR(info.st_mode) and entry.path not in _OWN_DEVICE_FOLDERS:
                os.mkdir(own, 0o755)
                _give_host_devices(entry.path, bound=bound)
            elif entry.path != "/dev/console" and _is_device(info) and not os.path.lexists(own):
                _give_device(entry.path, own, info, bound=bound)


def _is_device(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)


def _give_device(path: str, own: str, info: os.stat_result, *, bound: bool) -> None:
    if not bound:
        os.mknod(own, info.st_mode, info.st_rdev)
        os.chown(own, info.st_uid, info.st_gid)
    elif os.access(path, os.R_OK | os.W_OK):
        mount.place(mount.bind(path.encode()), os.open(own, os.O_CREAT | os.O_CLOEXEC, 0o666), own)


def _free_low_ports(*, ping: bool) -> None:
    """Every user may listen below port 1024 and send a ping, as in Docker since 20.10 (moby, ``WithSysctls``)."""
    values = {"ip_unprivileged_port_start": b"0"} | ({"ping_group_range": b"0 2147483647"} if ping else {})
    for name, value in values.items():
        with contextlib.suppress(OSError):
            _write(os.open(f"proc/sys/net/ipv4/{name}", os.O_WRONLY | os.O_CLOEXEC), value)


def _prepare_sys(*, writable: bool, own_network: bool) -> None:
    read_only = 0 if writable else constants.MOUNT_ATTR_RDONLY
    if own_network:
        sysfs = mount.filesystem(b"sysfs", attributes=_SAFE_MOUNT | read_only)
    else:  # sysfs shows a network namespace, and only its owner may mount it: show the host's instead
        sysfs = mount.bind(b"/sys")
        if read_only:
            syscalls.mount_setattr(sysfs, add=read_only, recursive=True)
    _mount_at("sys", sysfs)


def show_cgroups(*, writable: bool) -> None:
    """The control groups that this process is in, read-only, beneath what ``prepare`` made: before ``assemble``.

    As in Docker, with one folder for each hierarchy of version 1. Without root the kernel may refuse some of them.
    """
    with open("proc/self/cgroup") as file:
        hierarchies = [line.split(":")[1] for line in file]
    attributes = _SAFE_MOUNT | (0 if writable else constants.MOUNT_ATTR_RDONLY)
    top = "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        if hierarchies == [""]:
            _mount_at(top, mount.filesystem(b"cgroup2", attributes=attributes))
            return
        _mount_at(top, mount.filesystem(b"tmpfs", [(b"mode", b"755")], _SAFE_MOUNT))
        for controllers in filter(None, hierarchies):
            name = controllers.removeprefix("name=")
            options: list[tuple[bytes, bytes | None]] = [(word.encode(), None) for word in name.split(",")]
            if name != controllers:
                options = [(b"name", name.encode())]
            os.mkdir(f"{top}/{name}")
            _mount_at(f"{top}/{name}", mount.filesystem(b"cgroup", options, attributes))
            for part in name.split(",") if "," in name else ():
                os.symlink(name, f"{top}/{part}")


def _mount_at(path: str, mounted: int) -> None:
    mount.place(mounted, os.open(path, os.O_PATH | os.O_CLOEXEC), path)


def _restrict_kernel_files() -> None:
    """By path: nobody is inside yet, and what is mounted here so far is the kernel's own."""
    empty: bytes | None = None
    for path in (*_MASKED, *_heat_counters()):
        if not os.path.lexists(path):
            continue
        if not os.path.isdir(path):
            syscalls.mount(b"dev/null", path, None, constants.MS_BIND)
        elif empty is not None:
            syscalls.mount(empty, path, None, constants.MS_BIND)
        else:
            syscalls.mount(b"tmpfs", path, b"tmpfs", _SAFE_MS | constants.MS_RDONLY, b"size=0")
            empty = path
    for path in _READ_ONLY:
        if os.path.lexists(path):
            syscalls.mount(path, path, None, constants.MS_BIND | constants.MS_REC)
            syscalls.mount(None, path, None, _REMOUNT_READ_ONLY)


def _heat_counters() -> list[bytes]:
    """What lets one guess at what the processors are working on: moby masks it too."""
    folder = b"sys/devices/system/cpu"
    if not os.path.exists(folder + b"/cpu0/thermal_throttle"):
        return []
    return [b"%b/%b/thermal_throttle" % (folder, name) for name in os.listdir(folder) if name[3:].isdigit()]


def assemble(spec: dict[str, Any], texts: Texts, step: mounting.StepMounts) -> list[mounting.Upper]:
    """Overlay the layers of ``spec``, move what was prepared beneath them, pivot; returns the writable layers.

    ``step`` gets what the mounts of a build step leave to be done.
    """
    if size := spec.get("writable"):  # bytes that the writable layer may take
        syscalls.mount(
            None, b".", None, constants.MS_REMOUNT | os.statvfs(".").f_flag & constants.MS_NODEV, b"size=%d" % size
        )
    uppers = []
    root = -1
    for index, overlay in enumerate(spec["overlays"]):
        mounted, upper = mounting.mount_overlay(str(index), overlay, devices=spec["privileged"])
        uppers.append(upper)
        if index == 0:
            root = os.dup(mounted)
            mount.place(mounted, os.open("root", os.O_PATH | os.O_CLOEXEC), "/")
        else:
            mount.place(mounted, mounting.target(root, overlay["target"], directory=True), overlay["target"])
    if not spec["bare"]:
        for name in ("dev", "proc", "sys"):
            _move(name, root)
        for path, content in spec["files"].items():
            text = texts.pop(path, None) or Text.create(path.replace("/", "-"))
            text.place(content, mounting.target(root, path, directory=False), path, read_only=spec["read_only"])
        for number, volume in enumerate(spec["volumes"]):
            mounting.mount_volume(volume, f"volume{number}", root, devices=spec["privileged"])
        step.place(spec["mounts"], root, uppers, devices=spec["privileged"])
    if spec["read_only"]:
        for overlay in spec["overlays"]:
            fd = mounting.target(root, overlay["target"], directory=True)
            syscalls.mount_setattr(fd, add=constants.MOUNT_ATTR_RDONLY)
            os.close(fd)
    os.fchdir(root)
    os.close(root)
    syscalls.pivot_root(b".", b".")
    syscalls.umount(b".", constants.MNT_DETACH)
    os.chdir("/")
    return uppers


def _move(name: str, root: int) -> None:
    source = os.open(name, os.O_PATH | os.O_CLOEXEC)
    try:
        target = syscalls.openat2(
            root,
            name,
            os.O_PATH | os.O_DIRECTORY,
            resolve=constants.RESOLVE_IN_ROOT | constants.RESOLVE_NO_SYMLINKS,
        )
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: the image's /{name} is not a directory", f"/{name}") from None
    mount.place(source, target, f"/{name}")
