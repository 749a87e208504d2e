"""Heredocs: ``<<NAME``, ``<<-NAME``, ``<<'NAME'`` in ``RUN``, ``COPY`` and ``ADD``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_capsule.dockerfile.words import Dialect, expand
from pytest_capsule.errors import DockerfileError

_MARK: Final = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_LEADING_TABS: Final = re.compile(r"^\t+", re.MULTILINE)

# BuildKit reads a heredoc's mark with a backslash as the escape character, whatever the Dockerfile's is.
_LINE: Final = Dialect(raw_quotes=True, raw_escapes=True, keep_unset=True)
_NAME: Final = Dialect(keep_unset=True)
_RAW_NAME: Final = Dialect(raw_quotes=True, keep_unset=True)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A heredoc.

    ``content`` is the body as it stands in the file; ``chomp`` (``<<-``) says that leading tabs go, ``expand`` that no
    part of the name was quoted, so that variables in the body are replaced; ``fd`` is the number before ``<<``, or 0.
    """

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    fd: int = 0

    @property
    def body(self) -> str:
        """The content, without leading tabs if ``chomp``."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content

    def ends_at(self, line: str) -> bool:
        """Whether ``line`` (with or without its newline) is the one that closes this heredoc."""
        line = line.rstrip("\r\n")
        return (line.lstrip("\t") if self.chomp else line) == self.name


def parse_heredoc(word: str) -> Heredoc | None:
    """Read one word as a heredoc's mark; ``None`` if it is none. Quotes that do not match raise ``DockerfileError``."""
    mark = _MARK.fullmatch(word)
    if mark is None or not mark[3]:
        return None
    names = expand(mark[3], {}, _NAME).words
    if len(names) != 1:
        return None
    raw = expand(mark[3], {}, _RAW_NAME).text
    fd = int(mark[1]) if 0 < len(mark[1]) < 20 else 0
    return Heredoc(names[0], expand=_quotes(names[0]) == _quotes(raw), chomp=bool(mark[2]), fd=fd)


def heredoc_mark(word: str) -> Heredoc | None:
    """Read ``word`` as a heredoc's mark; one that is malformed is none."""
    try:
        return parse_heredoc(word)
    except DockerfileError:
        return None


def heredocs_in(line: str) -> list[Heredoc]:
    """Find the heredocs that an instruction's line opens, in order, their contents still empty."""
    try:
        words = expand(line, {}, _LINE).words
    except DockerfileError:  # BuildKit leaves the complaint about a line that it cannot lex to the shell
        return []
    return [heredoc for word in words if (heredoc := parse_heredoc(word))]


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
