"""Capabilities by name, and the one place that takes them away from a process.

Names and numbers: ``include/uapi/linux/capability.h``. The default set is Docker's (moby,
``oci/caps/defaults.go``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_capsule._linux import constants, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()

DEFAULT = frozenset(
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD "
    "AUDIT_WRITE SETFCAP".split()
)


def canonical(name: str) -> str:
    """``cap_net_admin``, ``NET_ADMIN`` and ``net_admin`` as ``NET_ADMIN``; ``ALL`` stays; ``ValueError`` otherwise."""
    bare = name.upper().removeprefix("CAP_")
    if bare != "ALL" and bare not in NAMES:
        raise ValueError(f"no such capability: {name!r}")
    return bare


def granted(add: Iterable[str], drop: Iterable[str]) -> frozenset[str]:
    """Docker's default set with ``--cap-add`` and ``--cap-drop`` applied in Docker's order (moby, ``oci/caps``)."""
    added = {canonical(name) for name in add}
    dropped = {canonical(name) for name in drop}
    kept = set(NAMES) if "ALL" in added else set() if "ALL" in dropped else set(DEFAULT)
    return frozenset((kept | added) - dropped - {"ALL"})


def bound_to(names: Iterable[str], last: int) -> None:
    """Take every capability but ``names`` from what this process' commands can ever have; not from the process itself.

    ``last`` is the highest number that the running kernel knows (``/proc/sys/kernel/cap_last_cap``). The bounding set
    is what an exec as root gets; ambient is emptied, as in Docker since CVE-2022-24769.
    """
    wanted = {NAMES.index(name) for name in names}
    syscalls.prctl(constants.PR_CAP_AMBIENT, constants.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(last + 1):
        if number not in wanted:
            syscalls.prctl(constants.PR_CAPBSET_DROP, number)


def hold(names: Iterable[str]) -> None:
    """Keep ``names`` and Docker's default set for this process, and let it hand none on as inheritable.

    The default set is for init itself, which goes on with files and users where a container was granted less; who may
    trace it (SYS_PTRACE was granted) gains little by it.
    """
    own = sum(1 << NAMES.index(name) for name in {*names, *DEFAULT}) & syscalls.permitted_capabilities()
    syscalls.capset(own, own, 0)
