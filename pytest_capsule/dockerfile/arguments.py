"""How one line is cut into an instruction's name, its flags and its arguments, each instruction by its own rule.

Source: ``split_command.go`` and ``line_parsers.go`` in BuildKit's ``frontend/dockerfile/parser``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_capsule.dockerfile.text import GAP, SPACE, quote
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Arguments(NamedTuple):
    """The arguments of an instruction, and whether they were written as a JSON array."""

    values: tuple[str, ...] = ()
    is_json: bool = False


class Command(NamedTuple):
    """A line cut in three: the instruction's name as written, its flags, and the rest."""

    name: str
    flags: tuple[str, ...]
    rest: str


def split_command(line: str, escape: str) -> Command:
    """Cut ``line`` into name, flags and rest."""
    name, *rest = GAP.split(line.strip(SPACE), maxsplit=1)
    flags, arguments = _split_flags(rest[0], escape) if rest else ((), "")
    return Command(name, flags, arguments.strip(SPACE))


def split_arguments(keyword: str, rest: str, escape: str) -> Arguments:
    """Cut ``rest`` by the rule of the instruction ``keyword`` (in lower case); raise ``DockerfileError``."""
    rule = _RULES.get(keyword)
    # The parser takes unknown instructions as they come: refusing them is the business of those who give them meaning.
    return rule(rest, escape) if rule else Arguments(("",))


def _split_flags(rest: str, escape: str) -> tuple[tuple[str, ...], str]:
    flags: list[str] = []
    at = _skip_space(rest, 0)
    while rest.startswith("--", at):
        flag, at = _flag(rest, at, escape)
        if flag == "--":
            break
        flags.append(flag)
        at = _skip_space(rest, at)
    return tuple(flags), rest[at:]


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _flag(text: str, at: int, escape: str) -> tuple[str, int]:
    """The flag that starts at ``at``, its quotes and escapes taken away, and where it ends."""
    out: list[str] = []
    quoted_by = ""
    while at < len(text):
        char = text[at]
        if char == escape:
            at += 1
            out.append(text[at : at + 1])
        elif quoted_by:
            if char == quoted_by:
                quoted_by = ""
            else:
                out.append(char)
        elif char in SPACE:
            break
        elif char in "'\"":
            quoted_by = char
        else:
            out.append(char)
        at += 1
    return "".join(out), at


def _split_words(rest: str, escape: str) -> list[str]:
    """Split at spaces outside quotes. Quotes and escapes stay in the words: they go when the words are expanded."""
    words: list[str] = []
    word: list[str] = []
    quoted_by = ""
    at = 0
    while at < len(rest):
        char = rest[at]
        if char == escape and quoted_by != "'":
            at += 1
            if at < len(rest):  # an escape character at the very end is dropped
                word.append(char + rest[at])
        elif quoted_by or char not in SPACE:
            word.append(char)
            if char in "'\"":
                quoted_by = "" if char == quoted_by else quoted_by or char
        elif word:
            words.append("".join(word))
            word.clear()
        at += 1
    if word:
        words.append("".join(word))
    return words


def _json_strings(rest: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, or ``None`` if ``rest`` is no JSON array; one of other things is refused."""
    if not rest.startswith("["):
        return None
    try:
        array = json.loads(rest, parse_constant=_refuse_constant, parse_int=str.encode, parse_float=str.encode)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in array):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(_LONE_SURROGATE.sub("\ufffd", item) for item in array)  # as Go's decoder does


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # Python's decoder takes NaN and Infinity, JSON does not


def _command(rest: str, escape: str) -> Arguments:
    """A JSON array, or one string for the shell."""
    strings = _json_strings(rest)
    if strings is not None:
        return Arguments(strings, is_json=True)
    return Arguments((rest,) if rest else ())


def _list_or_json(rest: str, escape: str) -> Arguments:
    strings = _json_strings(rest)
    return _list(rest, escape) if strings is None else Arguments(strings, is_json=True)


def _list(rest: str, escape: str) -> Arguments:
    return Arguments(tuple(GAP.split(rest)) if rest else ())


def _string(rest: str, escape: str) -> Arguments:
    return Arguments((rest,) if rest else ())


def _words(rest: str, escape: str) -> Arguments:
    return Arguments(tuple(_split_words(rest, escape)))


def _pairs(rest: str, escape: str, keyword: str) -> Arguments:
    """``name=value ...`` or the old ``name value``; each pair gives three values: name, value, and ``=`` or nothing."""
    words = _split_words(rest, escape)
    if not words:
        return Arguments()
    if "=" not in words[0]:
        name, *value = GAP.split(rest, maxsplit=1)
        if not value:
            raise DockerfileError(f"{keyword} must have two arguments")
        return Arguments((name, value[0], ""))
    values: list[str] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            reason = f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value"
            raise DockerfileError(reason, hint=f'quote the value if the space in it is meant: {keyword} name="a b"')
        values += (name, text, "=")
    return Arguments(tuple(values))


def _env(rest: str, escape: str) -> Arguments:
    return _pairs(rest, escape, "ENV")


def _label(rest: str, escape: str) -> Arguments:
    return _pairs(rest, escape, "LABEL")


def _healthcheck(rest: str, escape: str) -> Arguments:
    """A type (``CMD`` or ``NONE``), then a command."""
    if not rest:
        return Arguments()
    end = next((at for at, char in enumerate(rest) if char in SPACE), len(rest))
    arguments = _command(rest[end:].lstrip(SPACE), escape)
    return Arguments((rest[:end], *arguments.values), arguments.is_json)


_RULES: Final[dict[str, Callable[[str, str], Arguments]]] = {
    "add": _list_or_json,
    "arg": _words,
    "cmd": _command,
    "copy": _list_or_json,
    "entrypoint": _command,
    "env": _env,
    "expose": _list,
    "from": _list,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _string,
    "run": _command,
    "shell": _command,
    "stopsignal": _string,
    "user": _string,
    "volume": _list_or_json,
    "workdir": _string,
}
