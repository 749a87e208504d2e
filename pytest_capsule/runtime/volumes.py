"""A container's volumes as its init mounts them, before it pivots."""

from __future__ import annotations

import fcntl
import os
from typing import Any

from pytest_capsule._linux import constants, inroot, mount, syscalls
from pytest_capsule.runtime import files

_NO_DEVICES = constants.MOUNT_ATTR_NOSUID | constants.MOUNT_ATTR_NODEV


def mounted(volume: dict[str, Any], own: str, root: int, *, devices: bool) -> tuple[int, bool]:
    """A volume of ``runtime.spec`` as a detached mount, and whether it is a directory.

    ``own`` is a name beneath the current directory, which is the container's own memory, for a volume that is kept
    there; ``root`` is the image's tree, from which a new volume is filled.
    """
    if volume["source"] is None and not volume["own"]:
        return _memory(volume), True
    source = volume["source"]
    if volume["own"]:
        os.mkdir(own)
        os.chmod(own, 0o755)
        source = own
    is_directory = os.path.isdir(source)
    if volume["own"] or volume["fill"]:
        _fill(source, root, volume["target"])
    place = mount.bind(os.fsencode(source))
    restrictions = constants.MOUNT_ATTR_RDONLY if volume["read_only"] else 0
    if is_directory and not devices:  # a single device node may be given as a volume
        restrictions |= constants.MOUNT_ATTR_NODEV
    if restrictions:
        syscalls.mount_setattr(place, add=restrictions, recursive=True)
    return place, is_directory


def _memory(volume: dict[str, Any]) -> int:
    options: list[tuple[bytes, bytes | None]] = [(b"mode", b"1777")]
    options += [(key.encode(), value.encode()) for key, value in volume["options"].items()]
    flags = _NO_DEVICES
    if volume["no_exec"]:
        flags |= constants.MOUNT_ATTR_NOEXEC
    if volume["read_only"]:
        flags |= constants.MOUNT_ATTR_RDONLY
    return mount.filesystem(b"tmpfs", options, flags)


def _fill(folder: str, root: int, path: str) -> None:
    """Copy to an empty volume what the image has at ``path``, with its owners: what Docker does with a new one."""
    try:
        image = inroot.open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    volume = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(volume, fcntl.LOCK_EX)  # another container may be about to do the same
        if not os.listdir(volume):
            files.copy_tree(image, volume)
    finally:
        os.close(volume)
        os.close(image)
