"""System calls that the standard library lacks, one thin wrapper each.

Numbers come from the kernel's ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h``;
calls newer than 424 have the same number everywhere. Argument types are set once, at import; a failure is an
``OSError`` whose ``filename`` is the call with the path that it was made on.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import constants

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_INT, _UINT, _LONG, _ULONG = ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_ulong
_STR, _PTR = ctypes.c_char_p, ctypes.c_void_p

_libc.mount.argtypes = [_STR, _STR, _STR, _ULONG, _STR]
_libc.umount2.argtypes = [_STR, _INT]
_libc.unshare.argtypes = [_INT]
_libc.setns.argtypes = [_INT, _INT]
_libc.prctl.argtypes = [_INT, _ULONG, _ULONG, _ULONG, _ULONG]

_AARCH64 = os.uname().machine in ("aarch64", "arm64")
_ATTEMPTS = 128
_CAPABILITY_VERSION_3 = 0x20080522


def _call(number: int, *types: Any) -> Callable[..., int]:
    """The call with a number, which the C library has no function for: syscall(2) with its arguments' types."""
    function = _libc["syscall"]
    function.restype, function.argtypes = _LONG, (_LONG, *types)
    return functools.partial(function, number)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_clone = _call(220 if _AARCH64 else 56, _ULONG, _PTR, _PTR, _PTR, _PTR)
_pivot_root = _call(41 if _AARCH64 else 155, _STR, _STR)
_capget = _call(90 if _AARCH64 else 125, _PTR, _PTR)
_capset = _call(91 if _AARCH64 else 126, _PTR, _PTR)
_rt_sigaction = _call(134 if _AARCH64 else 13, _INT, _PTR, _PTR, _ULONG)
_seccomp = _call(277 if _AARCH64 else 317, _UINT, _UINT, _PTR)
_keyctl = _call(219 if _AARCH64 else 250, _INT, _STR)
_open_tree = _call(428, _INT, _STR, _UINT)
_move_mount = _call(429, _INT, _STR, _INT, _STR, _UINT)
_fsopen = _call(430, _STR, _UINT)
_fsconfig = _call(431, _INT, _UINT, _STR, _STR, _INT)
_fsmount = _call(432, _INT, _UINT, _UINT)
_close_range = _call(436, _UINT, _UINT, _UINT)
_openat2 = _call(437, _INT, _STR, _PTR, _ULONG)
_mount_setattr = _call(442, _INT, _STR, _UINT, _PTR, _ULONG)


def _check(result: int, call: str, subject: str | bytes = "") -> int:
    if result < 0:
        raise _failure(call, subject)
    return result


def _failure(call: str, subject: str | bytes) -> OSError:
    errno = ctypes.get_errno()
    return OSError(errno, os.strerror(errno), f"{call} {os.fsdecode(subject)}".strip())


def clone(flags: int) -> tuple[int, int]:
    """Fork into the new namespaces of ``flags``; returns ``(pid, pidfd)`` in the parent and ``(0, -1)`` in the child.

    The raw call, so no ``atfork`` handler runs: only for a process with a single thread. The child's death is SIGCHLD.
    """
    pidfd = _INT(-1)
    pid = _clone(flags | constants.CLONE_PIDFD | constants.SIGCHLD, None, ctypes.byref(pidfd), None, None)
    if pid < 0:
        raise _failure("clone", _namespace_names(flags))
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """Put this process into new namespaces."""
    _check(_libc.unshare(flags), "unshare", _namespace_names(flags))


def _namespace_names(flags: int) -> str:
    """The flags as sched.h names them, for an error that says which namespace is refused."""
    return "|".join(
        name for name, value in vars(constants).items() if name.startswith("CLONE_NEW") and flags & value == value
    )


def setns(fd: int, kind: int = 0) -> None:
    """Enter the namespace behind ``fd``; ``kind`` is its CLONE_NEW flag, or 0 for any."""
    _check(_libc.setns(fd, kind), "setns")


def prctl(option: int, value: int = 0, third: int = 0) -> int:
    """Set or ask for one attribute of this process."""
    return _check(_libc.prctl(option, value, third, 0, 0), f"prctl({option})")


def forget_signal_handler(number: int) -> None:
    """Give a signal its default disposition; also one that the C library keeps for itself, and sigaction(3) refuses."""
    default = ctypes.create_string_buffer(32)  # struct sigaction of the kernel: SIG_DFL, no flags, nothing masked
    _check(_rt_sigaction(number, default, None, 8), "rt_sigaction")


def join_new_keyring() -> None:
    """Give this process, and all that it starts, a session keyring of its own, which is empty: keyctl(2)."""
    _check(_keyctl(constants.KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")


def set_process_name(name: bytes) -> None:
    """What ``ps`` shows of this process; at most 15 bytes."""
    prctl(constants.PR_SET_NAME, ctypes.addressof(ctypes.create_string_buffer(name)))


def permitted_capabilities() -> int:
    """This process' permitted set as a mask."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    _check(_capget(ctypes.byref(header), ctypes.byref(data)), "capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this process' capability sets, each a mask of bits numbered as in ``capability.h``."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    masks = (effective, permitted, inheritable)
    data = (_CapData * 2)(
        _CapData(*(mask & 0xFFFFFFFF for mask in masks)),
        _CapData(*(mask >> 32 for mask in masks)),
    )
    _check(_capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def seccomp(program: bytes, *, listen: bool = False) -> int:
    """Put this process, and all that it starts, under one more filter: an array of ``struct sock_filter``.

    With ``listen`` it gives a descriptor of the calls that the filter hands on (``seccomp.notification``); EBUSY where
    another filter of this process has a listener already. EACCES without ``no_new_privs`` or CAP_SYS_ADMIN in the user
    namespace. The flag is runc's default too: else a filter switches speculative store bypass off on kernels before
    5.16, which slows every command.
    """
    filter_program = _FilterProgram(len(program) // constants.SOCK_FILTER_SIZE, program)
    listener = constants.SECCOMP_FILTER_FLAG_NEW_LISTENER if listen else 0
    flags = constants.SECCOMP_FILTER_FLAG_SPEC_ALLOW | listener
    return _check(_seccomp(constants.SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(filter_program)), "seccomp")


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from ``first`` to ``last``."""
    _check(_close_range(first, last, 0), "close_range")


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    """Classic ``mount(2)``; ``data`` may not be longer than a page: the kernel cuts it silently."""
    if _libc.mount(source, target, kind, flags, data) < 0:
        raise _failure(f"mount {os.fsdecode(kind or b'')} on", target)


def umount(target: bytes, flags: int = 0) -> None:
    """Unmount what is mounted at ``target``."""
    _check(_libc.umount2(target, flags), "umount", target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Make ``new_root`` the root of this mount namespace and hang the old one at ``put_old``."""
    _check(_pivot_root(new_root, put_old), "pivot_root", new_root)


def fsopen(kind: bytes) -> int:
    """Begin a new mount of a filesystem; returns the descriptor that ``fsconfig`` and ``fsmount`` take."""
    return _check(_fsopen(kind, constants.FSOPEN_CLOEXEC), "fsopen", kind)


def fsconfig(fd: int, key: bytes | None, value: bytes | None = None) -> None:
    """Set ``key`` to ``value`` (at most 255 bytes), set the flag ``key``, or, with no key, create the filesystem."""
    if key is None:
        command = constants.FSCONFIG_CMD_CREATE
    else:
        command = constants.FSCONFIG_SET_FLAG if value is None else constants.FSCONFIG_SET_STRING
    if _fsconfig(fd, command, key, value, 0) < 0:
        raise _failure("fsconfig", b"create" if key is None else key + b"=" + (value or b""))


def fsmount(fd: int, attributes: int = 0) -> int:
    """The created filesystem as a detached mount; returns a directory descriptor of its root."""
    return _check(_fsmount(fd, constants.FSMOUNT_CLOEXEC, attributes), "fsmount")


def open_tree(path: bytes, flags: int, directory: int = constants.AT_FDCWD) -> int:
    """A descriptor of a mount, with ``OPEN_TREE_CLONE`` of a detached copy of it (a bind mount not yet placed)."""
    return _check(_open_tree(directory, path, flags | constants.OPEN_TREE_CLOEXEC), "open_tree", path)


def move_mount(source: int, target: int, what: str | bytes = "") -> None:
    """Place the mount behind descriptor ``source`` on the file or directory behind ``target``: no path is resolved."""
    flags = constants.MOVE_MOUNT_F_EMPTY_PATH | constants.MOVE_MOUNT_T_EMPTY_PATH
    _check(_move_mount(source, b"", target, b"", flags), "move_mount", what)


def mount_setattr(fd: int, *, add: int = 0, remove: int = 0, propagation: int = 0, recursive: bool = False) -> None:
    """Change the attributes (``MOUNT_ATTR_*``) of the mount behind ``fd``, with ``recursive`` of all beneath it too."""
    attr = _MountAttr(add, remove, propagation, 0)
    flags = constants.AT_EMPTY_PATH | (constants.AT_RECURSIVE if recursive else 0)
    _check(_mount_setattr(fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)), "mount_setattr")


def openat2(directory: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open ``path`` beneath ``directory`` under the rules of ``resolve`` (``RESOLVE_*``); always close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_ATTEMPTS):
        fd = _openat2(directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        # RESOLVE_IN_ROOT answers EAGAIN when a rename ran beside it and ".." could not be judged: openat2(2). So does
        # O_NONBLOCK on a file with a lease, for as long as a container's process likes: there is an end to trying.
        if fd >= 0 or ctypes.get_errno() != constants.EAGAIN or attempt == _ATTEMPTS - 1:
            break
    return _check(fd, "openat2", path)
