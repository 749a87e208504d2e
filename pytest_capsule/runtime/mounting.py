"""What init mounts on an image's tree: overlays, volumes, and the mounts of one build step.

All of it is done before the pivot, while the host's files can still be named; what is mounted on is resolved inside the
image's tree and given by descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Any, NamedTuple

from pytest_capsule._linux import constants, inroot, mount, syscalls
from pytest_capsule.runtime import copies, volumes

SAFE = constants.MOUNT_ATTR_NOSUID | constants.MOUNT_ATTR_NODEV | constants.MOUNT_ATTR_NOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Upper(NamedTuple):
    """The writable layer of one overlay: where it is mounted, and a descriptor of the layer itself.

    ``copy``: there is no overlay, and the layer is what has changed in this.
    """

    target: str
    fd: int
    copy: copies.Copy | None = None


def mount_overlay(name: str, overlay: dict[str, Any], *, devices: bool) -> tuple[int, Upper]:
    """A detached overlay with its writable layer: on disk where ``overlay`` says, else in memory as ``name``."""
    lowers = [os.fsencode(lower) for lower in overlay["lowers"]]
    upper = overlay["upper"] or f"upper{name}"
    work = overlay["work"] or f"work{name}"
    os.mkdir(upper)
    os.mkdir(work)
    # The root directory of an overlay shows its upper's owner and mode, so the new upper takes the image's.
    info = os.stat(lowers[0])
    os.chmod(upper, info.st_mode & 0o7777)
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if overlay["copied"]:
        copy = copies.Copy.of(lowers, fd)
        mounted = mount.bind(os.fsencode(upper))
        if not devices:
            syscalls.mount_setattr(mounted, add=constants.MOUNT_ATTR_NODEV)
        return mounted, Upper(overlay["target"], fd, copy)
    attributes = 0 if devices else constants.MOUNT_ATTR_NODEV
    volatile = overlay["upper"] is not None  # on disk: what a container wrote is gone with it, or a cache's
    mounted = mount.overlay(lowers, os.fsencode(upper), os.fsencode(work), attributes, volatile=volatile)
    return mounted, Upper(overlay["target"], fd)


def mount_volume(volume: dict[str, Any], name: str, root: int, *, devices: bool) -> None:
    """Place a directory or file of the host, or a new tmpfs."""
    place, is_directory = volumes.mounted(volume, name, root, devices=devices)
    mount.place(place, target(root, volume["target"], directory=is_directory), volume["target"])


def target(root: int, path: str, *, directory: bool) -> int:
    """A descriptor of ``path`` in the image's tree to mount on; made where it is not there, as Docker does."""
    try:
        return inroot.open_inside(root, path, os.O_PATH | (os.O_DIRECTORY if directory else 0))
    except FileNotFoundError:
        pass
    if directory:
        inroot.make_directories(root, path)
        return inroot.open_inside(root, path, os.O_PATH | os.O_DIRECTORY)
    inroot.make_directories(root, os.path.dirname(path))
    with inroot.parent(root, path) as (parent, name):
        with contextlib.suppress(FileNotFoundError):  # a symlink that dangles: nobody may ever make its target
            os.unlink(name, dir_fd=parent)
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
    return inroot.open_inside(root, path, os.O_PATH)


class StepMounts:
    """The mounts of one build step: ``listeners`` are its sockets, ``sweep`` leaves no trace of the rest."""

    def __init__(self) -> None:
        self.listeners: list[socket.socket] = []
        self._stubs: list[_Stub] = []

    def place(self, mounts: list[dict[str, Any]], root: int, uppers: list[Upper], *, devices: bool) -> None:
        """Place them, in their order, and note what that has left in the writable layers."""
        for number, message in enumerate(mounts):
            if message["kind"] == "tree":
                _mount_tree(message, root, number, devices=devices)
            elif message["kind"] == "secret":
                _mount_file(message, root, _write_secret(message, f"etc/secret{number}"))
            elif message["kind"] == "socket":
                name = f"etc/socket{number}"
                self.listeners.append(_listen(name))
                _mount_file(message, root, name)
            else:
                mount_volume(message, f"step{number}", root, devices=devices)
        for upper in uppers if mounts else ():
            if upper.copy is None:
                self._stubs += _stubs(upper.fd, "")
            else:
                upper.copy.settle()

    def sweep(self) -> None:
        """Remove the mount points that had to be made, and the copies of directories on their way, if unchanged.

        What is left of a step's writable layer is what its command wrote (BuildKit: ``MountStubsCleaner``).
        """
        unchanged = [stub for stub in self._stubs if stub.is_unchanged()]
        for stub in reversed(unchanged):
            stub.remove()
        self._stubs = []


def _mount_tree(message: dict[str, Any], root: int, number: int, *, devices: bool) -> None:
    place = f"tree{number}"
    os.mkdir(place)
    top = -1
    for index, overlay in enumerate(message["overlays"]):
        mounted, upper = mount_overlay(f"-{place}-{index}", overlay, devices=devices)
        os.close(upper.fd)
        if index == 0:
            top = os.dup(mounted)
            mount.place(mounted, os.open(place, os.O_PATH | os.O_CLOEXEC), place)
        else:
            mount.place(mounted, target(top, overlay["target"], directory=True), overlay["target"])
    try:
        source = inroot.open_inside(top, message["source"], os.O_PATH)
    finally:
        os.close(top)
    is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
    shown = mount.bind(source)
    os.close(source)
    if message["read_only"]:
        syscalls.mount_setattr(shown, add=constants.MOUNT_ATTR_RDONLY, recursive=True)
    mount.place(shown, target(root, message["target"], directory=is_directory), message["target"])


def _write_secret(message: dict[str, Any], name: str) -> str:
    with open(name, "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(message["content"].encode("latin-1"))
    return name


def _listen(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(name)
    sock.listen()
    return sock


def _mount_file(message: dict[str, Any], root: int, name: str) -> None:
    """Let one of our own files be seen, read-only, with the owner and the mode that it is to have."""
    try:
        os.chown(name, message["uid"], message["gid"])
    except OSError as error:
        if error.errno != errno.EINVAL:  # that id there is not in this user namespace, and nobody in it can have it
            raise
    os.chmod(name, message["mode"])
    shown = mount.bind(name.encode())
    syscalls.mount_setattr(shown, add=SAFE | constants.MOUNT_ATTR_RDONLY)
    mount.place(shown, target(root, message["target"], directory=False), message["target"])


class _Stub(NamedTuple):
    """An entry that placing a mount has left in a writable layer: the mount point, or a directory above it."""

    upper: int
    path: str
    before: tuple[int, ...]

    def is_unchanged(self) -> bool:
        try:
            return _state(os.lstat(self.path, dir_fd=self.upper)) == self.before
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove it unless something has come to lie in it; the directory above keeps its time."""
        parent = os.path.dirname(self.path) or "."
        info = os.lstat(parent, dir_fd=self.upper)
        try:
            if stat.S_ISDIR(self.before[0]):
                os.rmdir(self.path, dir_fd=self.upper)
            else:
                os.unlink(self.path, dir_fd=self.upper)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            os.utime(parent, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=self.upper)


def _stubs(upper: int, folder: str) -> list[_Stub]:
    """All that lies in a writable layer that was empty before, a directory before what it holds."""
    found: list[_Stub] = []
    fd = os.open(folder or ".", _DIRECTORY, dir_fd=upper)
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    for name in names:
        path = f"{folder}/{name}" if folder else name
        info = os.lstat(path, dir_fd=upper)
        found.append(_Stub(upper, path, _state(info)))
        if stat.S_ISDIR(info.st_mode):
            found += _stubs(upper, path)
    return found


def _state(info: os.stat_result) -> tuple[int, ...]:
    return (
        info.st_mode,
        info.st_uid,
        info.st_gid,
        info.st_ino,
        info.st_size if stat.S_ISREG(info.st_mode) else 0,
        info.st_mtime_ns,
    )
