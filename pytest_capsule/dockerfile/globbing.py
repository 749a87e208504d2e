"""The patterns of ``${name#pattern}`` and ``${name/pattern/replacement}``: literal text, ``?`` and ``*``.

BuildKit turns them into an RE2 expression, which takes linear time. Python's ``re`` would backtrack over every ``*``,
so the pieces between the stars are looked for one after another instead: what lies between two stars can always be
taken where it is found first, and only the last piece decides between the shortest and the longest match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_capsule.errors import DockerfileError

_STAR: Final = "*"
_ANY: Final = "?"
_TEMPLATE: Final = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, cut at its stars; ``pieces`` are expressions of one fixed length each."""

    pieces: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, pattern: str, *, reverse: bool = False) -> Glob:
        """Read ``pattern``, from its end if ``reverse``; a backslash may only escape ``* ? \\ }`` and ``/``."""
        tokens = _tokens(pattern)
        pieces = [""]
        for token in reversed(tokens) if reverse else tokens:
            if token == _STAR:
                pieces.append("")
            else:
                pieces[-1] += "." if token == _ANY else re.escape(token[-1])
        return cls(tuple(map(re.compile, pieces)))

    def end(self, value: str, start: int = 0, *, longest: bool) -> int | None:
        """Where the shortest or longest match that begins at ``start`` ends, or ``None``."""
        first = self.pieces[0].match(value, start)
        if first is None:
            return None
        at = first.end()
        if len(self.pieces) == 1:
            return at
        newline = value.find("\n", at)  # RE2's dot, which the star becomes, does not cross a newline
        limit = len(value) if newline < 0 else newline
        for piece in self.pieces[1:-1]:
            found = piece.search(value, at, limit)
            if found is None:
                return None
            at = found.end()
        return _last(self.pieces[-1], value, at, limit) if longest else _next(self.pieces[-1], value, at, limit)

    def search(self, value: str, start: int = 0) -> tuple[int, int] | None:
        """The leftmost match at or after ``start``, as long as can be: where it begins and ends, or ``None``."""
        while start <= len(value) and (first := self.pieces[0].search(value, start)):
            end = self.end(value, first.start(), longest=True)
            if end is not None:
                return first.start(), end
            # What follows the first star was not found up to the newline: no later start on this line can do better.
            newline = value.find("\n", first.end())
            if newline < 0:
                return None
            start = newline + 1
        return None


def trim_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """Do ``${value#pattern}``, or ``##`` if ``longest``."""
    end = Glob.parse(pattern).end(value, longest=longest)
    return value if end is None else value[end:]


def trim_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """Do ``${value%pattern}``, or ``%%`` if ``longest``: a prefix of both read backwards."""
    backwards = value[::-1]
    end = Glob.parse(pattern, reverse=True).end(backwards, longest=longest)
    return value if end is None else backwards[end:][::-1]


def replace_first(value: str, pattern: str, replacement: str) -> str:
    """Do ``${value/pattern/replacement}``."""
    found = Glob.parse(pattern).search(value)
    return value if found is None else value[: found[0]] + replacement + value[found[1] :]


def replace_all(value: str, pattern: str, replacement: str) -> str:
    """Do ``${value//pattern/replacement}``; here, and only here, BuildKit lets Go read ``$0`` in the replacement."""
    glob = Glob.parse(pattern)
    out: list[str] = []
    done = at = 0
    while found := glob.search(value, at):
        start, end = found
        out.append(value[done:start])
        if end > done or start == 0:  # Go replaces no empty match right behind another match
            out.append(_fill(replacement, value[start:end]))
        done = end
        at = max(at + 1, end)
    return "".join(out) + value[done:]


def _fill(replacement: str, matched: str) -> str:
    def group(match: re.Match[str]) -> str:
        name = match[2] or match[3]
        return "$" if match[1] else matched if name == "0" else ""

    return _TEMPLATE.sub(group, replacement)


def _tokens(pattern: str) -> list[str]:
    """Cut into ``*``, ``?`` and literals; a literal has a backslash before it, so that none looks like a star."""
    tokens: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
            char = pattern[at : at + 1]
            if char not in ("*", "?", "\\", "}", "/"):
                raise DockerfileError(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'")
        elif char in (_STAR, _ANY):
            tokens.append(char)
            at += 1
            continue
        tokens.append("\\" + char)
        at += 1
    return tokens


def _next(piece: re.Pattern[str], value: str, at: int, limit: int) -> int | None:
    found = piece.search(value, at, limit)
    return found.end() if found else None


def _last(piece: re.Pattern[str], value: str, at: int, limit: int) -> int | None:
    end = None
    ahead = re.compile(f"(?={piece.pattern})")
    for found in ahead.finditer(value, at, limit):
        end = found.start()
    if end is None:
        return None
    last = piece.match(value, end, limit)
    assert last is not None
    return last.end()
