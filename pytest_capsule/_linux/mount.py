"""Mounts as descriptors: made detached, placed on a descriptor, so that no path in a container's tree is trusted."""

from __future__ import annotations

import contextlib
import errno
import functools
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


def overlay(lowers: Sequence[bytes], upper: bytes, work: bytes, attributes: int = 0, *, volatile: bool = False) -> int:
    """A detached overlay of ``lowers`` (topmost first) with ``upper`` as its writable layer.

    ``volatile``: nobody waits for the disk, neither a program that asks for it nor the end of the mount; ``work`` then
    serves no other overlay.

    Always with ``userxattr``: its marks are ``user.overlay.*``, which root and an ordinary user can both read, so one
    store serves both (Documentation/filesystems/overlayfs.rst). ``lowerdir+`` came with Linux 6.5; before it, all
    layers go into one option of at most a page, so there each directory is named by a descriptor, which is short and
    needs no escape.
    """
    flags: list[tuple[bytes, bytes | None]] = [(b"userxattr", None)]
    if volatile:
        flags.append((b"volatile", None))
    with _Names() as names:
        layers: list[tuple[bytes, bytes | None]]
        if takes_layers_singly():
            layers = [(b"lowerdir+", name if len(name) <= _PATH_LIMIT else names.of(name)) for name in lowers]
            options = [*layers, (b"upperdir", upper), (b"workdir", work), *flags]
            return filesystem(b"overlay", options, attributes)
        layers = [(b"lowerdir", b":".join(names.of(name) for name in lowers))]
        layers += [(b"upperdir", names.of(upper)), (b"workdir", names.of(work))]
        return _overlay_before_6_5([*layers, *flags], upper, attributes)


@functools.cache
def takes_layers_singly() -> bool:
    """Whether this kernel's overlay has ``lowerdir+``.

    Before, it took all options as one text, of which it learnt at the creation only what they were: it then takes the
    flag that is none too, and would complain of it in the kernel's log later.
    """
    context = syscalls.fsopen(b"overlay")
    try:
        syscalls.fsconfig(context, b"lowerdir+")
    except OSError:
        return True
    finally:
        os.close(context)
    return False


class _Names(contextlib.ExitStack):
    """Names of directories by descriptors, which are closed in the end."""

    def of(self, path: bytes) -> bytes:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.callback(os.close, descriptor)
        return b"/proc/self/fd/%d" % descriptor


def _overlay_before_6_5(options: Sequence[tuple[bytes, bytes | None]], here: bytes, attributes: int) -> int:
    """Mounted with the old call, for a moment at the directory ``here``."""
    data = b",".join(name if value is None else name + b"=" + value for name, value in options)
    if len(data) >= _PAGE:  # mount(2) would cut it silently and stack the wrong layers
        raise OSError(errno.E2BIG, "these layers are too many before Linux 6.5", "mount overlay")
    syscalls.mount(b"overlay", here, b"overlay", attributes, data)  # MOUNT_ATTR_* to NOEXEC are MS_* by number
    mounted = syscalls.open_tree(here, constants.OPEN_TREE_CLONE)
    syscalls.umount(here, constants.MNT_DETACH)
    return mounted
