"""System calls that the standard library lacks, one thin wrapper each.

Numbers come from the kernel's ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h``;
calls newer than 424 have the same number everywhere. Argument types are set once, at import; a failure is an
``OSError`` whose ``filename`` is the call with the path that it was made on.
"""

from __future__ import annotations

import ctypes
import os

from pytest_capsule._linux import constants

_libc = ctypes.CDLL(None, use_errno=True)
_INT, _LONG, _ULONG, _STR, _PTR = ctypes.c_int, ctypes.c_long, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_void_p

_libc.syscall.restype = _LONG
_libc.mount.argtypes = [_STR, _STR, _STR, _ULONG, _STR]
_libc.umount2.argtypes = [_STR, _INT]
_libc.unshare.argtypes = [_INT]
_libc.setns.argtypes = [_INT, _INT]
_libc.prctl.argtypes = [_INT, _ULONG, _ULONG, _ULONG, _ULONG]

_AARCH64 = os.uname().machine in ("aarch64", "arm64")
_SYS_CLONE, _SYS_PIVOT_ROOT, _SYS_CAPGET, _SYS_CAPSET = (220, 41, 90, 91) if _AARCH64 else (56, 155, 125, 126)
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432
_SYS_CLOSE_RANGE, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 436, 437, 442
_SYS_RT_SIGACTION, _SYS_SECCOMP, _SYS_KEYCTL = (134, 277, 219) if _AARCH64 else (13, 317, 250)


_ATTEMPTS = 128
_CAPABILITY_VERSION_3 = 0x20080522


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
    pid: int = _libc.syscall(
        _LONG(_SYS_CLONE),
        _ULONG(flags | constants.CLONE_PIDFD | constants.SIGCHLD),
        _LONG(0),
        ctypes.byref(pidfd),
        _LONG(0),
        _LONG(0),
    )
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
    _check(_libc.syscall(_LONG(_SYS_RT_SIGACTION), _LONG(number), default, None, _LONG(8)), "rt_sigaction")


def join_new_keyring() -> None:
    """Give this process, and all that it starts, a session keyring of its own, which is empty: keyctl(2)."""
    _check(_libc.syscall(_LONG(_SYS_KEYCTL), _INT(constants.KEYCTL_JOIN_SESSION_KEYRING), None), "keyctl")


def set_process_name(name: bytes) -> None:
    """What ``ps`` shows of this process; at most 15 bytes."""
    prctl(constants.PR_SET_NAME, ctypes.addressof(ctypes.create_string_buffer(name)))


def permitted_capabilities() -> int:
    """This process' permitted set as a mask."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    _check(_libc.syscall(_LONG(_SYS_CAPGET), ctypes.byref(header), ctypes.byref(data)), "capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this process' capability sets, each a mask of bits numbered as in ``capability.h``."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    masks = (effective, permitted, inheritable)
    data = (_CapData * 2)(
        _CapData(*(mask & 0xFFFFFFFF for mask in masks)),
        _CapData(*(mask >> 32 for mask in masks)),
    )
    _check(_libc.syscall(_LONG(_SYS_CAPSET), ctypes.byref(header), ctypes.byref(data)), "capset")


def seccomp(program: bytes, *, listen: bool = False) -> int:
    """Put this process, and all that it starts, under one more filter: an array of ``struct sock_filter``.

    With ``listen`` it gives a descriptor of the calls that the filter hands on (``seccomp.notification``); EBUSY where
    another filter of this process has a listener already. EACCES without ``no_new_privs`` or CAP_SYS_ADMIN in the user
    namespace. The flag is runc's default too: else a filter switches speculative store bypass off on kernels before
    5.16, which slows every command.
    """
    filter_program = _FilterProgram(len(program) // constants.SOCK_FILTER_SIZE, program)
    listener = constants.SECCOMP_FILTER_FLAG_NEW_LISTENER if listen else 0
    return _check(
        _libc.syscall(
            _LONG(_SYS_SECCOMP),
            ctypes.c_uint(constants.SECCOMP_SET_MODE_FILTER),
            ctypes.c_uint(constants.SECCOMP_FILTER_FLAG_SPEC_ALLOW | listener),
            ctypes.byref(filter_program),
        ),
        "seccomp",
    )


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from ``first`` to ``last``."""
    _check(_libc.syscall(_LONG(_SYS_CLOSE_RANGE), ctypes.c_uint(first), ctypes.c_uint(last), _LONG(0)), "close_range")


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    """Classic ``mount(2)``; ``data`` may not be longer than a page: the kernel cuts it silently."""
    if _libc.mount(source, target, kind, flags, data) < 0:
        raise _failure(f"mount {os.fsdecode(kind or b'')} on", target)


def umount(target: bytes, flags: int = 0) -> None:
    """Unmount what is mounted at ``target``."""
    _check(_libc.umount2(target, flags), "umount", target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Make ``new_root`` the root of this mount namespace and hang the old one at ``put_old``."""
    _check(_libc.syscall(_LONG(_SYS_PIVOT_ROOT), _STR(new_root), _STR(put_old)), "pivot_root", new_root)


def fsopen(kind: bytes) -> int:
    """Begin a new mount of a filesystem; returns the descriptor that ``fsconfig`` and ``fsmount`` take."""
    return _check(_libc.syscall(_LONG(_SYS_FSOPEN), _STR(kind), _LONG(constants.FSOPEN_CLOEXEC)), "fsopen", kind)


def fsconfig(fd: int, key: bytes | None, value: bytes | None = None) -> None:
    """Set ``key`` to ``value`` (at most 255 bytes), set the flag ``key``, or, with no key, create the filesystem."""
    if key is None:
        command = constants.FSCONFIG_CMD_CREATE
    else:
        command = constants.FSCONFIG_SET_FLAG if value is None else constants.FSCONFIG_SET_STRING
    subject = b"create" if key is None else key + b"=" + (value or b"")
    _check(
        _libc.syscall(_LONG(_SYS_FSCONFIG), _INT(fd), _LONG(command), _STR(key), _STR(value), _LONG(0)),
        "fsconfig",
        subject,
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """The created filesystem as a detached mount; returns a directory descriptor of its root."""
    return _check(
        _libc.syscall(_LONG(_SYS_FSMOUNT), _INT(fd), _LONG(constants.FSMOUNT_CLOEXEC), _ULONG(attributes)), "fsmount"
    )


def open_tree(path: bytes, flags: int, directory: int = constants.AT_FDCWD) -> int:
    """A descriptor of a mount, with ``OPEN_TREE_CLONE`` of a detached copy of it (a bind mount not yet placed)."""
    return _check(
        _libc.syscall(
            _LONG(_SYS_OPEN_TREE), _LONG(directory), _STR(path), ctypes.c_uint(flags | constants.OPEN_TREE_CLOEXEC)
        ),
        "open_tree",
        path,
    )


def move_mount(source: int, target: int, what: str | bytes = "") -> None:
    """Place the mount behind descriptor ``source`` on the file or directory behind ``target``: no path is resolved."""
    flags = constants.MOVE_MOUNT_F_EMPTY_PATH | constants.MOVE_MOUNT_T_EMPTY_PATH
    _check(
        _libc.syscall(_LONG(_SYS_MOVE_MOUNT), _LONG(source), _STR(b""), _LONG(target), _STR(b""), ctypes.c_uint(flags)),
        "move_mount",
        what,
    )


def mount_setattr(fd: int, *, add: int = 0, remove: int = 0, propagation: int = 0, recursive: bool = False) -> None:
    """Change the attributes (``MOUNT_ATTR_*``) of the mount behind ``fd``, with ``recursive`` of all beneath it too."""
    attr = _MountAttr(add, remove, propagation, 0)
    flags = constants.AT_EMPTY_PATH | (constants.AT_RECURSIVE if recursive else 0)
    _check(
        _libc.syscall(
            _LONG(_SYS_MOUNT_SETATTR),
            _LONG(fd),
            _STR(b""),
            ctypes.c_uint(flags),
            ctypes.byref(attr),
            _ULONG(ctypes.sizeof(attr)),
        ),
        "mount_setattr",
    )


def openat2(directory: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open ``path`` beneath ``directory`` under the rules of ``resolve`` (``RESOLVE_*``); always close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_ATTEMPTS):
        fd: int = _libc.syscall(
            _LONG(_SYS_OPENAT2),
            _LONG(directory),
            _STR(os.fsencode(path)),
            ctypes.byref(how),
            _ULONG(ctypes.sizeof(how)),
        )
        # RESOLVE_IN_ROOT answers EAGAIN when a rename ran beside it and ".." could not be judged: openat2(2). So does
        # O_NONBLOCK on a file with a lease, for as long as a container's process likes: there is an end to trying.
        if fd >= 0 or ctypes.get_errno() != constants.EAGAIN or attempt == _ATTEMPTS - 1:
            break
    return _check(fd, "openat2", path)
