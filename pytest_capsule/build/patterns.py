"""Wildcards of COPY and ADD, and of ``--filter reference``: Go's ``filepath.Match``, as in BuildKit and moby."""

from __future__ import annotations

import re
from functools import lru_cache


def has_wildcard(pattern: str) -> bool:
    """Whether a path is a pattern rather than a name."""
    return any(character in pattern for character in "*?[")


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression in which no wildcard passes a ``/``; ``ValueError`` for a malformed pattern."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            expression, position = _character_class(pattern, position)
            out.append(expression)
        elif character == "\\":
            if position == len(pattern):
                raise ValueError(f"{pattern!r} ends in a backslash")
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(character))
    return re.compile("".join(out), re.DOTALL)


def _character_class(pattern: str, position: int) -> tuple[str, int]:
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[str] = []
    while True:
        if position >= len(pattern):
            raise ValueError(f"{pattern!r}: a '[' is never closed")
        if pattern[position] == "]" and ranges:
            return f"[{'^/' if negated else ''}{''.join(ranges)}]", position + 1
        low, position = _class_member(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _class_member(pattern, position + 1)
        if low > high:
            raise ValueError(f"{pattern!r}: the range {low}-{high} is empty")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")


def _class_member(pattern: str, position: int) -> tuple[str, int]:
    if position < len(pattern) and pattern[position] == "\\":
        position += 1
    if position >= len(pattern) or pattern[position] in "-]":
        raise ValueError(f"{pattern!r}: a '[' is never closed")
    return pattern[position], position + 1
