"""How BuildKit, being written in Go, looks at characters: what a space is, and how a message quotes a string."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters of Go's ``unicode.IsSpace``. Python's ``str.isspace`` also takes the control characters 1C to 1F."""

GAP: Final = re.compile(r"[\t\v\f\r ]+")
"""What parts an instruction's name from its arguments, and the arguments from each other."""

_SHORT_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


def decode(source: bytes | str) -> str:
    """Give ``source`` as text; bytes that are no UTF-8 stay as lone surrogates, so that nothing is lost."""
    return source.decode("utf-8", "surrogateescape") if isinstance(source, bytes) else source


def quote(text: str) -> str:
    """Quote ``text`` as Go's ``strconv.Quote`` does."""
    return '"' + "".join(map(_escape, text)) + '"'


def quote_all(texts: Iterable[str]) -> str:
    """Quote a list of strings as Go's ``%q`` does: ``["a" "b"]``."""
    return "[" + " ".join(map(quote, texts)) + "]"


def did_you_mean(word: str, known: Iterable[str], *, beneath: str = "") -> str | None:
    """Give the hint that names the one of ``known`` that looks like ``word``, as a path if ``beneath`` is a folder."""
    import difflib  # only a refused Dockerfile pays for it

    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"did you mean {posixpath.join(beneath, names[close[0]])}?" if close else None


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is at most two edits from ``word``, or ``None``: BuildKit's ``suggest.Search``."""
    best, distance = None, 3
    for name in known:
        if name == word:
            return None
        if abs(len(name) - len(word)) < distance and (edits := _distance(word, name)) < distance:
            best, distance = name, edits
    return best


def _distance(one: str, other: str) -> int:
    """How many characters must be put in, taken out or replaced (Levenshtein)."""
    row = list(range(len(other) + 1))
    for number, char in enumerate(one, 1):
        before, row[0] = row[0], number
        for at, wanted in enumerate(other, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (char != wanted))
    return row[-1]


def _escape(char: str) -> str:
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, see decode()
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
