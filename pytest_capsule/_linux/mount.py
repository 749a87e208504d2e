"""Mounts as descriptors: made detached, placed on a descriptor, so that no path in a container's tree is trusted."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pytest_capsule._linux import constants, syscalls

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATH_LIMIT = 255  # fsconfig(2) takes a value of 255 bytes
_PAGE = 4096


def filesystem(kind: bytes, options: Sequence[tuple[bytes, bytes | None]] = (), attributes: int = 0) -> int:
    """A new instance of filesystem ``kind`` as a detached mount; ``options`` are pairs, ``None`` marks a flag."""
    context = syscalls.fsopen(kind)
    try:
        syscalls.fsconfig(context, b"source", kind)  # what df(1) and /proc/mounts show
        for key, value in options:
            syscalls.fsconfig(context, key, value)
        syscalls.fsconfig(context, None)
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


def place(mount: int, target: int, what: str | bytes = "") -> None:
    """Put a detached mount on the file or directory behind ``target``; both descriptors are closed."""
    try:
        syscalls.move_mount(mount, target, what)
    finally:
        os.close(mount)
        os.close(target)


def bind(source: bytes | int, *, recursive: bool = True) -> int:
    """A detached copy of the mount at ``source`` (a path or a descriptor): a bind mount that is not placed yet."""
    flags = constants.OPEN_TREE_CLONE | (constants.AT_RECURSIVE if recursive else 0)
    if isinstance(source, int):
        return syscalls.open_tree(b"", flags | constants.AT_EMPTY_PATH, source)
    return syscalls.open_tree(source, flags)


def overlay(lowers: Sequence[bytes], upper: bytes, work: bytes, attributes: int = 0) -> int:
    """A detached overlay of ``lowers`` (topmost first) with ``upper`` as its writable layer.

    Always with ``userxattr``: its marks are ``user.overlay.*``, which root and an ordinary user can both read, so one
    store serves both (Documentation/filesystems/overlayfs.rst). ``lowerdir+`` came with Linux 6.5; before it, all
    layers go into one option of at most a page, so there each is named by a descriptor, which is short and needs no
    escape.
    """
    options: list[tuple[bytes, bytes | None]] = [(b"upperdir", upper), (b"workdir", work), (b"userxattr", None)]
    descriptors: list[int] = []
    try:
        names = [name if len(name) <= _PATH_LIMIT else _by_descriptor(name, descriptors) for name in lowers]
        try:
            return filesystem(b"overlay", [(b"lowerdir+", name) for name in names] + options, attributes)
        except OSError as error:
            if "lowerdir+" not in str(error.filename):
                raise
        return _overlay_before_6_5([_by_descriptor(name, descriptors) for name in lowers], upper, work, attributes)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _by_descriptor(path: bytes, opened: list[int]) -> bytes:
    opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return b"/proc/self/fd/%d" % opened[-1]


def _overlay_before_6_5(lowers: Sequence[bytes], upper: bytes, work: bytes, attributes: int) -> int:
    data = b"lowerdir=" + b":".join(lowers) + b",upperdir=" + upper + b",workdir=" + work + b",userxattr"
    if len(data) >= _PAGE:  # mount(2) would cut it silently and stack the wrong layers
        raise OSError(errno.E2BIG, f"{len(lowers)} layers are too many before Linux 6.5", "mount overlay")
    syscalls.mount(b"overlay", upper, b"overlay", attributes, data)  # MOUNT_ATTR_* to NOEXEC are MS_* by number
    mounted = syscalls.open_tree(upper, constants.OPEN_TREE_CLONE)
    syscalls.umount(upper, constants.MNT_DETACH)
    return mounted
