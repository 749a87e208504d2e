"""BuildKit's shell lexer: quotes, escapes and variables in an instruction's arguments.

It is not a shell. It knows ``'…'``, ``"…"``, the escape character, ``$name``, ``${name}`` and the modifiers
``- :- + :+ ? :? # ## % %% / //``, and nothing else. Source: ``frontend/dockerfile/shell/lex.go`` of moby/buildkit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_capsule.dockerfile import globbing
from pytest_capsule.dockerfile.text import SPACE, quote
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN: Final = re.compile(r"""[^$'"<}/\\`]+""")
_SPACE: Final = re.compile(f"[{SPACE}]+")
_GAP_IN_HEREDOC: Final = re.compile(r"[ \t\r]*")
_SPECIAL_PARAMETERS: Final = frozenset("@*#?-$!0")
_MODIFIERS: Final = frozenset(":-+?#%")
_DEEPEST: Final = 100
"""Nested substitutions, far under Python's recursion limit. BuildKit has no limit, and nobody has needed one."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a text became, in one piece or in words, and which variables had a value (``used``) and had none."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to read a text.

    ``escape`` is the Dockerfile's escape character. ``quotes=False`` takes quotes as common characters (a heredoc's
    body). ``raw_quotes`` and ``raw_escapes`` leave them in the result. ``keep_unset`` leaves a variable that has no
    value as it was written. ``fold_case`` finds variables in any case, as Windows does.
    """

    escape: str = "\\"
    quotes: bool = True
    raw_quotes: bool = False
    raw_escapes: bool = False
    keep_unset: bool = False
    fold_case: bool = False


COMMON: Final = Dialect()
"""The dialect of an instruction's arguments in a Dockerfile without an ``escape`` directive."""


def expand(text: str, env: Mapping[str, str], dialect: Dialect = COMMON) -> Expansion:
    """Expand ``text`` with the variables ``env``; raise ``DockerfileError`` (without a line) where BuildKit refuses."""
    lexer = _Lexer(text.removeprefix("\ufeff"), env, dialect)
    try:
        whole, words = lexer.until("", dialect.raw_escapes)
    except DockerfileError as error:
        raise DockerfileError(f"failed to process {quote(text)}: {error.reason}", path=error.path) from None
    return Expansion(whole, tuple(words), frozenset(lexer.used), frozenset(lexer.unset))


def process_word(text: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """Expand ``text`` to one string; spaces in it stay."""
    return expand(text, env, Dialect(escape)).text


def process_words(text: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Expand ``text`` and split it at the spaces that are not quoted; a variable's value is split too."""
    return list(expand(text, env, Dialect(escape)).words)


class Expander:
    """Expands the words of instructions with one set of variables, and remembers which of them were asked for.

    ``env`` maps names to values; it is read at each call, so the caller may go on changing it. ``used`` and ``unset``
    collect, over all calls, the names that had a value and those that had none.
    """

    __slots__ = ("_body", "_common", "env", "unset", "used")

    def __init__(self, env: Mapping[str, str], *, escape: str = "\\") -> None:
        self.env = env
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self._common = Dialect(escape)
        self._body = Dialect(quotes=False)  # a heredoc's body: BuildKit always reads it with a backslash

    @property
    def escape(self) -> str:
        """The escape character of the Dockerfile."""
        return self._common.escape

    def word(self, text: str) -> str:
        """Expand ``text`` to one string."""
        return self._expand(text, self._common).text

    def words(self, text: str) -> tuple[str, ...]:
        """Expand ``text`` and split it into words."""
        return self._expand(text, self._common).words

    def heredoc(self, text: str) -> str:
        """Expand the body of a heredoc, in which quotes mean nothing."""
        return self._expand(text, self._body).text

    def with_env(self, env: Mapping[str, str]) -> Expander:
        """The same expander with other variables; what it is asked is remembered here as well."""
        other = Expander(env, escape=self.escape)
        other.used, other.unset = self.used, self.unset
        return other

    def _expand(self, text: str, dialect: Dialect) -> Expansion:
        result = expand(text, self.env, dialect)
        self.used |= result.used
        self.unset |= result.unset
        return result


class _Words:
    """Collects the words of a text: what stands outside quotes is split at spaces, what stands inside is not."""

    __slots__ = ("_word", "_words")

    def __init__(self) -> None:
        self._word: list[str] = []
        self._words: list[str] = []

    def add(self, text: str) -> None:
        head, *others = _SPACE.split(text)
        self.add_raw(head)
        for part in others:
            self._end_word()
            self.add_raw(part)

    def add_raw(self, text: str) -> None:
        if text:
            self._word.append(text)

    def _end_word(self) -> None:
        if self._word:
            self._words.append("".join(self._word))
            self._word.clear()

    def finish(self) -> list[str]:
        self._end_word()
        return self._words


class _Lexer:
    __slots__ = ("_at", "_depth", "_dialect", "_env", "_text", "unset", "used")

    def __init__(self, text: str, env: Mapping[str, str], dialect: Dialect) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._env = {name.upper(): value for name, value in env.items()} if dialect.fold_case else env
        self._dialect = dialect
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read up to and with the character ``stop``, or to the end if ``stop`` is empty."""
        if self._depth == _DEEPEST:
            raise DockerfileError(f"substitutions are nested deeper than {_DEEPEST}")
        self._depth += 1
        out: list[str] = []
        words = _Words()
        while char := self._peek():
            if char == stop:
                self._at += 1
                break
            piece, is_raw = self._piece(char, raw_escapes)
            out.append(piece)
            if is_raw:
                words.add_raw(piece)
            else:
                words.add(piece)
        else:
            if stop:
                raise DockerfileError(f"syntax error: missing '{stop}' in ${{}}")
        self._depth -= 1
        return "".join(out), words.finish()

    def _piece(self, char: str, raw_escapes: bool) -> tuple[str, bool]:
        """What comes next, and whether spaces in it belong to the word."""
        if char == "$":
            return self._dollar(raw_escapes), False
        if char == "'" and self._dialect.quotes:
            return self._single_quoted(), True
        if char == '"' and self._dialect.quotes:
            return self._double_quoted(raw_escapes), True
        if char == "<":
            return self._chevrons(), True
        if char == self._dialect.escape:
            self._at += 1
            return (char if raw_escapes else "") + self._take(), True
        plain = _PLAIN.match(self._text, self._at)
        self._at = plain.end() if plain else self._at + 1
        return plain[0] if plain else char, False

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += len(char)
        return char

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at, end + 1
        return self._text[start : end + 1] if self._dialect.raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self, raw_escapes: bool) -> str:
        mark = '"' if self._dialect.raw_quotes else ""
        escape = self._dialect.escape
        out = [mark]
        self._at += 1
        while (char := self._peek()) != '"':
            if not char:
                raise DockerfileError("unexpected end of statement while looking for matching double-quote")
            if char == "$":
                out.append(self._dollar(raw_escapes))
                continue
            self._at += 1
            if char == escape:
                if raw_escapes:
                    out.append(char)
                if not self._peek():
                    continue
                if self._peek() in ('"', "$", escape):  # before all others an escape character stands for itself
                    char = self._take()
            out.append(char)
        self._at += 1
        out.append(mark)
        return "".join(out)

    def _chevrons(self) -> str:
        """``<`` or ``<<``; the latter with the gap behind it, so that ``<< EOF`` is one word (a heredoc's mark)."""
        start = self._at
        self._at += 1
        if self._peek() == "<":
            gap = _GAP_IN_HEREDOC.match(self._text, self._at + 1)
            self._at = gap.end() if gap else self._at + 1
        return self._text[start : self._at]

    def _dollar(self, raw_escapes: bool) -> str:
        self._at += 1
        if self._peek() == "{":
            self._at += 1
            return self._braced()
        name = self._name()
        return self._or_as_written(self._value(name), f"${name}") if name else "$"

    def _braced(self) -> str:
        if not self._peek():
            raise DockerfileError("syntax error: missing '}'")
        if self._peek() in ("{", "}", ":"):
            raise DockerfileError("syntax error: bad substitution")
        name = self._name()
        modifier = self._take()
        if modifier == "}":
            return self._or_as_written(self._value(name), f"${{{name}}}")
        if modifier == "/":
            return self._replaced(name)
        if modifier == ":":
            modifier += self._take()
        if modifier in (":#", ":%") or modifier[:1] not in _MODIFIERS:
            raise _unsupported(modifier)
        return self._modified(name, modifier)

    def _modified(self, name: str, modifier: str) -> str:
        word, _ = self.until("}", modifier in ("#", "%"))
        value = self._value(name)
        if value is None and self._dialect.keep_unset:
            return f"${{{name}{modifier}{word}}}"
        if modifier[-1] not in _MODIFIERS:
            raise _unsupported(modifier)
        missing = value is None or (modifier[0] == ":" and not value)
        kind = modifier[-1]
        if kind == "-":
            return word if missing else value or ""
        if kind == "+":
            return "" if missing else word
        if kind == "?":
            if missing:
                raise DockerfileError(f"{name}: {word or f'is not allowed to be {_lack(value)}'}")
            return value or ""
        longest = word.startswith(kind)
        trim = globbing.trim_prefix if kind == "#" else globbing.trim_suffix
        return trim(value or "", word[1:] if longest else word, longest=longest)

    def _replaced(self, name: str) -> str:
        every = self._peek() == "/"
        if every:
            self._at += 1
        pattern, _ = self.until("/", True)
        replacement, _ = self.until("}", True)
        value = self._value(name)
        if value is None and self._dialect.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        replace = globbing.replace_all if every else globbing.replace_first
        return replace(value or "", pattern, replacement)

    def _name(self) -> str:
        """A variable's name: digits, or one of the shell's special parameters, or letters, digits and ``_``."""
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first in _SPECIAL_PARAMETERS:
            self._at += 1
        else:
            while (char := self._peek()).isalpha() or char.isdecimal() or char == "_":
                self._at += 1
        return self._text[start : self._at]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name.upper() if self._dialect.fold_case else name)
        (self.unset if value is None else self.used).add(name)
        return value

    def _or_as_written(self, value: str | None, written: str) -> str:
        return value if value is not None else written if self._dialect.keep_unset else ""


def _unsupported(modifier: str) -> DockerfileError:
    return DockerfileError(
        f"unsupported modifier ({modifier}) in substitution" if modifier else "syntax error: missing '}'"
    )


def _lack(value: str | None) -> str:
    return "unset" if value is None else "empty"
