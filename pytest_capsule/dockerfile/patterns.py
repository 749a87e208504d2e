"""One pattern of a ``.dockerignore`` file or a ``--exclude`` flag, as moby's ``patternmatcher`` understands it.

Two readings of a pattern meet in moby. Go's ``filepath.Match`` only says whether the pattern is well formed; what it
matches is decided by an expression made from it, or by comparing ends of strings where no expression is needed:
``**/name`` is a suffix and ``dir/**`` a prefix. So ``**name`` also matches ``dir/othername``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable

_LITERAL: Final = "literal"
_SET: Final = "set"  # one character of a set
_STAR: Final = "star"  # any number of characters that are no slash
_ALL: Final = "all"  # a ** at the end
_GAP: Final = "gap"  # a ** before something: nothing, or any directories
_EXPRESSIONS: Final = {_STAR: "[^/]*", _ALL: ".*", _GAP: "(?:.*/)?"}
_MOST_WILDCARDS_FOR_RE: Final = 2
"""Python's ``re`` tries all lengths of each wildcard: n^2 steps for two is the most that we allow, see ``_Machine``."""

_CLASS_ESCAPES: Final = {
    "d": "[0-9]",
    "D": "[^0-9]",
    "w": "[0-9A-Za-z_]",
    "W": "[^0-9A-Za-z_]",
    "s": r"[\t\n\f\r ]",
    "S": r"[^\t\n\f\r ]",
}
_CONTROL_ESCAPES: Final = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _Token(NamedTuple):
    kind: str
    text: str = ""

    @property
    def expression(self) -> str:
        return _EXPRESSIONS.get(self.kind) or self.text


@dataclass(frozen=True, slots=True)
class Pattern:
    """A cleaned pattern; ``is_exception`` says that it began with ``!``, which is no longer part of ``text``."""

    text: str
    is_exception: bool = False
    _matches: Callable[[str], bool] = field(default=lambda _: False, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern; raise ``DockerfileError`` (without a line) if it is malformed."""
        text = clean(text)
        is_exception = text.startswith("!")
        if is_exception:
            text = text[1:]
            if not text:
                raise DockerfileError('illegal exclusion pattern: "!"', hint="write what the ! is to keep behind it")
        return cls(text, is_exception, _matcher(text))

    def matches(self, path: str) -> bool:
        """Whether the pattern means exactly ``path`` (relative, with ``/``); directories above it are not asked."""
        return self._matches(path)

    @property
    def prefix(self) -> str | None:
        """The path without a trailing ``/*`` or ``/**``, or ``None`` if wildcards are left in it."""
        bare = self.text.removesuffix("/**").removesuffix("/*")
        return None if any(char in "*[]?^" for char in bare) else bare


def clean(path: str) -> str:
    """The shortest form of ``path``, as Go's ``path.Clean`` gives it: no ``.``, no ``//``, ``..`` resolved."""
    is_rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and is_rooted:
            continue
        elif part not in ("", "."):
            parts.append(part)
    joined = "/".join(parts)
    return f"/{joined}" if is_rooted else joined or "."


def _matcher(text: str) -> Callable[[str], bool]:
    tokens = _tokens(text)
    wildcards = sum(token.kind != _LITERAL for token in tokens)
    is_plain = wildcards < 2 and "\\" not in text and "]" not in text
    if is_plain and not wildcards:
        return text.__eq__
    if is_plain and text.endswith("**") and not text.startswith("**"):
        start = text[:-2]
        return lambda path: path.startswith(start)
    if is_plain and text.startswith("**"):
        end = text[2:]
        return lambda path: path.endswith(end) or (end.startswith("/") and path == end[1:])
    if sum(token.kind in _EXPRESSIONS for token in tokens) > _MOST_WILDCARDS_FOR_RE:
        return _Machine(tokens).accepts
    expression = re.compile("".join(token.expression for token in tokens))
    return lambda path: expression.fullmatch(path) is not None


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(text):
        char = text[at]
        if text.startswith("**", at):
            at += 3 if text.startswith("/", at + 2) else 2
            tokens.append(_Token(_GAP if at < len(text) else _ALL))
            continue
        if char == "[":
            token, at = _set(text, at + 1)
            tokens.append(token)
            continue
        if char == "\\":
            at += 1
            tokens.append(_escaped(text, at))
        elif char == "*":
            tokens.append(_Token(_STAR))
        elif char == "?":
            tokens.append(_Token(_SET, "[^/]"))
        elif char == "^":
            tokens.append(_Token(_LITERAL, "^"))  # moby forgets to escape it, so that it asks for the path's start
        else:
            tokens.append(_Token(_LITERAL, re.escape(char)))
        at += 1
    return tokens


def _escaped(text: str, at: int) -> _Token:
    """What a backslash makes of the character at ``at``; moby hands it to Go's ``regexp`` as it is."""
    char = text[at : at + 1]
    if char in _CLASS_ESCAPES:
        return _Token(_SET, _CLASS_ESCAPES[char])
    char = _CONTROL_ESCAPES.get(char, char)
    if not char or char.isalnum() or ord(char) > 127:
        raise _malformed(text)
    return _Token(_LITERAL, re.escape(char))


def _set(text: str, at: int) -> tuple[_Token, int]:
    """Read ``[a-z]`` or ``[^a-z]`` from behind its bracket, and where it ends."""
    negated = text.startswith("^", at)
    at += negated
    items: list[str] = []
    while not items or not text.startswith("]", at):
        low, at = _set_member(text, at)
        high = low
        if text.startswith("-", at):
            high, at = _set_member(text, at + 1)
        if low > high:
            raise _malformed(text)
        items.append(f"{re.escape(low)}-{re.escape(high)}")
    return _Token(_SET, f"[{'^' if negated else ''}{''.join(items)}]"), at + 1


def _set_member(text: str, at: int) -> tuple[str, int]:
    char = text[at : at + 1]
    if char in ("", "-", "]"):
        raise _malformed(text)
    if char == "\\":
        at += 1
        char = text[at : at + 1]
    if not char or at + 1 == len(text):  # at least the closing bracket must follow
        raise _malformed(text)
    return char, at + 1


def _malformed(text: str) -> DockerfileError:
    return DockerfileError(f"syntax error in pattern: {text}", hint="as in [a-z]; a backslash takes the meaning away")


class _Machine:
    """Follows all ways through a pattern at once, one bit a token: linear time, however many wildcards there are.

    A gap is three states: before it (from which one may also go on behind it), inside it, and behind it.
    """

    def __init__(self, tokens: list[_Token]) -> None:
        self._states: list[_Token] = []
        self._skip_one = self._skip_two = 0
        for token in tokens[tokens[0].expression == "^" :]:
            bit = 1 << len(self._states)
            if token.kind == _GAP:
                self._skip_two |= bit
                self._states.append(_Token(_LITERAL, "(?!)"))
            if token.kind in _EXPRESSIONS:
                self._skip_one |= bit
            self._states.append(token)
        self._moves: dict[str, tuple[int, int]] = {}

    def accepts(self, path: str) -> bool:
        states = self._reach(1)
        for char in path:
            if char not in self._moves:
                self._moves[char] = self._moves_of(char)
            stay, go = self._moves[char]
            states = self._reach((states & stay) | (states & go) << 1)
            if not states:
                return False
        return bool(states >> len(self._states))

    def _reach(self, states: int) -> int:
        """Add the states that cost no character."""
        while True:
            more = states | (states & self._skip_one) << 1 | (states & self._skip_two) << 2
            if more == states:
                return states
            states = more

    def _moves_of(self, char: str) -> tuple[int, int]:
        """The states that ``char`` leaves where they are, and those that it moves on."""
        stay = go = 0
        for index, token in enumerate(self._states):
            if token.kind == _STAR:
                stay |= (char != "/") << index
            elif token.kind in (_ALL, _GAP):
                stay |= (char != "\n") << index
                go |= (token.kind == _GAP and char == "/") << index
            else:
                go |= (re.fullmatch(token.expression, char) is not None) << index
        return stay, go
