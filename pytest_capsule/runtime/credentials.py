"""The ids of a process as the kernel would keep them: credentials(7), setresuid(2), setgroups(2), as plain values."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

_KEEP = 0xFFFFFFFF  # (uid_t) -1
Triple = tuple[int, int, int]


class Credentials(NamedTuple):
    """Real, effective and saved ids, and the other groups: ``None`` for those that the kernel knows of.

    ``keeps``: a process that gives up root keeps its capabilities (PR_SET_KEEPCAPS), until it executes another program.
    """

    uids: Triple = (0, 0, 0)
    gids: Triple = (0, 0, 0)
    groups: tuple[int, ...] | None = None
    keeps: bool = False

    @classmethod
    def of(cls, uid: int, gid: int, groups: tuple[int, ...]) -> Credentials:
        """Those of a process that was started for a user."""
        return cls((uid, uid, uid), (gid, gid, gid), groups)

    def after(self, name: str, arguments: tuple[int, ...]) -> Credentials:
        """What they are after a successful ``set*id``; ``OSError`` (EPERM) where the kernel would refuse it."""
        what, kind = (name[:-3], name[-3:])
        ids = tuple(argument & _KEEP for argument in arguments)
        changed = _CHANGES[what](self.uids if kind == "uid" else self.gids, ids, self._is_privileged)
        return self._replace(uids=changed) if kind == "uid" else self._replace(gids=changed)

    @property
    def _is_privileged(self) -> bool:
        return self.uids[1] == 0 or self.keeps

    def with_groups(self, groups: tuple[int, ...]) -> Credentials:
        """After ``setgroups``; only root may."""
        _may(self._is_privileged)
        return self._replace(groups=groups)


def _set(now: Triple, wanted: tuple[int, ...], privileged: bool) -> Triple:
    real, _, saved = now
    new = wanted[0]
    _may(privileged or new in (real, saved))
    return (new, new, new) if privileged else (real, new, saved)


def _set_two(now: Triple, wanted: tuple[int, ...], privileged: bool) -> Triple:
    real, effective, saved = now
    new_real, new_effective = wanted[:2]
    _may(privileged or new_real in (_KEEP, real, effective))
    _may(privileged or new_effective in (_KEEP, *now))
    kept = new_real == _KEEP and new_effective in (_KEEP, real)
    new_real = real if new_real == _KEEP else new_real
    new_effective = effective if new_effective == _KEEP else new_effective
    return new_real, new_effective, saved if kept else new_effective


def _set_three(now: Triple, wanted: tuple[int, ...], privileged: bool) -> Triple:
    _may(privileged or all(new in (_KEEP, *now) for new in wanted[:3]))
    real, effective, saved = (old if new == _KEEP else new for old, new in zip(now, wanted, strict=False))
    return real, effective, saved


def _set_for_files(now: Triple, _: tuple[int, ...], __: bool) -> Triple:
    return now  # who asks what is in force asks for another id


def _may(allowed: bool) -> None:
    if not allowed:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


_CHANGES = {"set": _set, "setre": _set_two, "setres": _set_three, "setfs": _set_for_files}
