"""The filters of containers: programs for the machine that they run on."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from pytest_capsule._linux import constants
from pytest_capsule._linux.seccomp import profile
from pytest_capsule._linux.seccomp.bpf import ALLOW, HAND_ON, Check, Decision, Range, Rule, compile_filter, fail_with
from pytest_capsule._linux.seccomp.syscall_numbers import PRIVATE, CallingConvention, conventions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_SUCCESS = fail_with(0)
# Charliecloud's list (bin/seccomp.c and ch-image(1), "Root emulation"), in which kexec_load is a test of the filter.
_FEIGNED = (
    "capset chown chown32 fchown fchown32 fchownat lchown lchown32 kexec_load setfsgid setfsgid32 setfsuid setfsuid32 "
    "setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid "
    "setreuid32 setuid setuid32"
).split()
_HANDED_ON = (
    "chown fchown fchownat lchown setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid "
    "getegid geteuid getgid getgroups getresgid getresuid getuid"
).split()
_MODE_ARGUMENT = {"mknod": 1, "mknodat": 2}
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_FILE_TYPE = 0o170000  # S_IFMT


def default_filter(capabilities: Collection[str], machine: str) -> bytes:
    """moby's default profile for a container with ``capabilities``; ``ValueError`` for a machine without a table."""
    spoken = conventions(machine)
    decisions = profile.decisions(capabilities, machine)
    return compile_filter(
        {
            convention.audit: ranges(convention, decisions, other=profile.DENIED, newer=profile.UNKNOWN)
            for convention in spoken
        },
        otherwise=profile.DENIED[0].action,
    )


def feigned_root_filter(machine: str, *, handed_on: bool) -> bytes:
    """Answers success, and does nothing, to what only a root with many ids may do: Charliecloud's root emulation.

    For RUN in a container that has a single id, where ``chown`` to another id can only fail: package managers go on.
    With ``handed_on`` a listener answers to owners and ids (``runtime.feigned_root``), so that those who look whether
    it was done, as apt does when it gives up root for its downloads, find what they asked for. By the 32-bit convention
    nobody is asked, and nobody may look. Installed after another filter it only widens what is answered: of two answers
    with an errno the newest filter's counts, and a refusal of its own it has none.
    """
    feigned: dict[str, Decision] = dict.fromkeys(_FEIGNED, (Rule(_SUCCESS),))
    for name, index in _MODE_ARGUMENT.items():
        devices = (Rule(_SUCCESS, (Check(index, kind, _FILE_TYPE),)) for kind in _DEVICES)
        feigned[name] = (*devices, Rule(ALLOW))
    asked = dict(feigned)
    if handed_on:
        asked |= dict.fromkeys(_HANDED_ON, (Rule(HAND_ON),))
        asked["prctl"] = (Rule(HAND_ON, (Check(0, constants.PR_SET_KEEPCAPS),)), Rule(ALLOW))
    own, *others = conventions(machine)
    return compile_filter(
        {
            convention.audit: ranges(convention, decisions, other=profile.ALLOWED, newer=profile.ALLOWED)
            for convention, decisions in ((own, asked), *((other, feigned) for other in others))
        },
        otherwise=ALLOW,
    )


def handed_on_names(machine: str) -> dict[int, str]:
    """The calls by number that ``feigned_root_filter`` hands on."""
    numbers = conventions(machine)[0].numbers
    return {numbers[name]: name for name in (*_HANDED_ON, "prctl") if name in numbers}


def ranges(
    convention: CallingConvention, decisions: Mapping[str, Decision], *, other: Decision, newer: Decision
) -> list[Range]:
    """Decisions by name as ranges of numbers; ``other`` fills the gaps, ``newer`` what is after the last that is named.

    With ``newer`` comes x32 as well, whose numbers begin at 1 << 30.
    """
    numbered = {
        convention.numbers[name]: decision for name, decision in decisions.items() if name in convention.numbers
    }
    last = max(number for number in numbered if number < PRIVATE)
    found: list[Range] = []
    following = 0
    for number, decision in sorted(numbered.items()):
        if number > following:
            _extend(found, following, other if following <= last else newer)
        _extend(found, number, decision)
        following = number + 1
    _extend(found, following, newer)
    return found


def _extend(found: list[Range], first: int, decision: Decision) -> None:
    if not found or found[-1].decision != decision:
        found.append(Range(first, decision))
