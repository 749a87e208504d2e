"""A compiler from rules on system calls to a classic BPF program, as seccomp(2) takes it.

The program loads the calling convention, then the number of the call, and finds it by halves in a tree of ranges; only
a call with rules on its arguments costs more. It is written from its end to its beginning: jumps go forward only, so
the target of each is already in its place, and equal tails are shared as they appear.

``struct seccomp_data`` (``include/uapi/linux/seccomp.h``) is what it reads: number at 0, convention at 4, and six
arguments of 64 bits from 16 on. Both machines that it is for are little-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALLOW = 0x7FFF0000
"""SECCOMP_RET_ALLOW."""

HAND_ON = 0x7FC00000
"""SECCOMP_RET_USER_NOTIF: whoever listens to the filter answers (``seccomp.notification``)."""

LIMIT = 4096
"""Instructions that the kernel takes (BPF_MAXINSNS)."""

_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO
_HALF = 0xFFFFFFFF
_WHOLE = 0xFFFFFFFFFFFFFFFF

# linux/bpf_common.h
_LOAD = 0x20  # LD | W | ABS
_JUMP = 0x05  # JMP | JA
_IF_EQUAL = 0x15  # JMP | JEQ | K
_IF_NOT_LESS = 0x35  # JMP | JGE | K
_AND = 0x54  # ALU | AND | K
_RETURN = 0x06  # RET | K

_NUMBER_AT, _CONVENTION_AT, _ARGUMENTS_AT = 0, 4, 16
# A jump's offset has one byte. Two fewer, for the instructions that bringing its two targets near may put before it.
_REACH = 255 - 2


def fail_with(errno: int) -> int:
    """The action that answers ``errno`` without doing the call; 0 answers success."""
    return _ERRNO | errno


class Check(NamedTuple):
    """Whether ``argument`` (0-5), under ``mask``, equals ``value``; with ``negated``, whether it does not."""

    argument: int
    value: int
    mask: int = _WHOLE
    negated: bool = False


class Rule(NamedTuple):
    """``action`` for the calls whose arguments pass all ``checks``."""

    action: int
    checks: tuple[Check, ...] = ()


Rules = tuple[Rule, ...]
"""The first rule whose checks pass counts; the last one has none."""


class Lookup(NamedTuple):
    """What becomes of a call by the lower half of its ``argument``: of an ``int``, the kernel sees no more."""

    argument: int
    ranges: tuple[Range, ...]


Decision = Rules | Lookup
"""What becomes of a call."""


class Range(NamedTuple):
    """The decision on the numbers from ``first`` on, until the next range."""

    first: int
    decision: Decision


def compile_filter(conventions: Mapping[int, Sequence[Range]], otherwise: int) -> bytes:
    """The program: an array of ``struct sock_filter``.

    ``conventions`` maps ``AUDIT_ARCH_*`` to ranges, ascending from 0 on; a call by any other convention gets the action
    ``otherwise``. ``ValueError`` when the program is too long for the kernel.
    """
    program = _Program()
    entry = program.end(otherwise)
    for audit, ranges in reversed([*conventions.items()]):
        tree = program.load(_NUMBER_AT, program.search(ranges))
        entry = program.branch(_IF_EQUAL, audit, tree, entry)
    program.load(_CONVENTION_AT, entry)
    return program.assembled()


class _Program:
    """Instructions from the last to the first; an instruction's place counts from the end and never changes."""

    def __init__(self) -> None:
        self._backwards: list[bytes] = []
        self._known: dict[tuple[int, ...], int] = {}
        self._nearest: dict[int, int] = {}

    def assembled(self) -> bytes:
        if len(self._backwards) > LIMIT:
            raise ValueError(f"a filter of {len(self._backwards)} instructions is longer than {LIMIT}")
        return b"".join(reversed(self._backwards))

    def search(self, ranges: Sequence[Range]) -> int:
        """The tree: half of the ranges at each branch."""
        if len(ranges) == 1:
            return self._decide(ranges[0].decision)
        middle = len(ranges) // 2
        above = self.search(ranges[middle:])
        below = self.search(ranges[:middle])
        return self.branch(_IF_NOT_LESS, ranges[middle].first, above, below)

    def _decide(self, decision: Decision) -> int:
        if isinstance(decision, Lookup):
            return self.load(_ARGUMENTS_AT + 8 * decision.argument, self.search(decision.ranges))
        place = self.end(decision[-1].action)
        for rule in reversed(decision[:-1]):
            passed = self.end(rule.action)
            for check in reversed(rule.checks):
                passed = self._check(check, passed, place)
            place = passed
        return place

    def _check(self, check: Check, passed: int, failed: int) -> int:
        if check.negated:
            passed, failed = failed, passed
        for half in (0, 1):
            mask = check.mask >> 32 * half & _HALF
            value = check.value >> 32 * half & _HALF
            if mask or value:
                passed = self.branch(_IF_EQUAL, value, passed, failed)
                if mask != _HALF:
                    passed = self._then(_AND, mask, passed)
                passed = self.load(_ARGUMENTS_AT + 8 * check.argument + 4 * half, passed)
        return passed

    def end(self, action: int) -> int:
        """Where the program ends with ``action``."""
        key = (_RETURN, action)
        if key not in self._known:
            self._known[key] = self._put(_RETURN, 0, 0, action)
        return self._known[key]

    def load(self, offset: int, following: int) -> int:
        """Load a word of what the filter is asked about, and go on at ``following``."""
        return self._then(_LOAD, offset, following)

    def branch(self, code: int, value: int, true: int, false: int) -> int:
        """Go on at ``true`` or at ``false``."""
        key = (code, value, true, false)
        if key not in self._known:
            true = self._near(true)
            false = self._near(false)
            here = len(self._backwards)
            self._known[key] = self._put(code, here - true - 1, here - false - 1, value)
        return self._known[key]

    def _then(self, code: int, value: int, following: int) -> int:
        key = (code, value, following)
        if key not in self._known:
            if following != len(self._backwards) - 1:
                self._jump(following)
            self._known[key] = self._put(code, 0, 0, value)
        return self._known[key]

    def _near(self, target: int) -> int:
        """``target``, or a place within reach that does the same."""
        place = self._nearest.get(target, target)
        if len(self._backwards) - place - 1 > _REACH:
            code, _, _, action = struct.unpack("=HBBI", self._backwards[target])
            # Another end is as long as a jump to the one there is, and faster.
            place = self._put(_RETURN, 0, 0, action) if code == _RETURN else self._jump(target)
            self._nearest[target] = place
        return place

    def _jump(self, target: int) -> int:
        return self._put(_JUMP, 0, 0, len(self._backwards) - target - 1)

    def _put(self, code: int, if_true: int, if_false: int, value: int) -> int:
        self._backwards.append(struct.pack("=HBBI", code, if_true, if_false, value))
        return len(self._backwards) - 1
