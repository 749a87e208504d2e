"""From a Dockerfile's text to its syntax tree: directives, comments, continued lines, heredocs.

Source: ``frontend/dockerfile/parser/parser.go`` and ``directives.go`` of moby/buildkit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from pytest_capsule.dockerfile.arguments import split_arguments, split_command
from pytest_capsule.dockerfile.heredoc import Heredoc, heredocs_in
from pytest_capsule.dockerfile.origin import Origin
from pytest_capsule.dockerfile.text import SPACE, decode, quote, quote_all
from pytest_capsule.errors import DockerfileError

_DIRECTIVE: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=(.+)", re.DOTALL)
_DIRECTIVES: Final = ("syntax", "escape", "check")
_LONGEST_LINE: Final = 65535
"""In bytes, without the newline: the buffer of Go's ``bufio.Scanner``."""


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction of the tree.

    ``name`` is as written, ``original`` the joined line it comes from. ``arguments`` are cut by the instruction's own
    rule, not expanded; ``is_json`` says that they were a JSON array. ``child`` is the instruction behind ``ONBUILD``.
    ``comments`` are those right above.
    """

    name: str
    flags: tuple[str, ...]
    arguments: tuple[str, ...]
    is_json: bool
    original: str
    origin: Origin
    child: Node | None = None
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        """The name in lower case."""
        return self.name.lower()

    def dump(self) -> str:
        """The node as the S-expression that BuildKit's ``Node.Dump`` prints."""
        parts = [self.keyword, *([quote_all(self.flags)] if self.flags else []), *map(quote, self.arguments)]
        if self.child:
            parts.append(f"({self.child.dump()})")
        return " ".join(parts).strip(SPACE)


@dataclass(frozen=True, slots=True)
class ParseWarning:
    """Something that BuildKit accepts and warns about."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A parsed Dockerfile; ``escape`` is its escape character."""

    path: str
    nodes: tuple[Node, ...]
    escape: str
    warnings: tuple[ParseWarning, ...]

    def dump(self) -> str:
        """The tree as the S-expressions that BuildKit's parser prints, one instruction a line."""
        return "\n".join(f"({node.dump()})" for node in self.nodes)


def parse_tree(source: bytes | str, path: str = "Dockerfile") -> Tree:
    """Parse ``source``; raise ``DockerfileError`` with line and text where BuildKit's parser refuses."""
    return _Reader(decode(source), path).read()


def read_directives(source: bytes | str) -> dict[str, str]:
    """The parser directives at the top of ``source``, a ``#!`` line before them left out; of each value the first word.

    This is the view of BuildKit's ``DetectSyntax``, which asks before the file is parsed and complains of nothing.
    """
    lines = decode(source).removeprefix("\ufeff").split("\n")
    found: dict[str, str] = {}
    for line in lines[1:] if lines[0].startswith("#!") else lines:
        directive = _directive(line.removesuffix("\r"))
        if directive is None or directive[0] in found:
            break
        found[directive[0]] = directive[1]
    return {name: value.partition(" ")[0] for name, value in found.items()}


def _directive(line: str) -> tuple[str, str] | None:
    match = _DIRECTIVE.fullmatch(line[1:].lstrip(SPACE)) if line.startswith("#") else None
    if match is None or match[1].lower() not in _DIRECTIVES:
        return None
    return match[1].lower(), match[2].strip("\t\n\f\r ") or match[2][-1]


def _is_comment(line: str) -> bool:
    return line.lstrip(SPACE).startswith("#")


def _without_continuation(line: str, escape: str) -> tuple[str, bool]:
    """``line`` without the escape character that continues it, and whether there was one.

    Two of them at the end are an escaped one; BuildKit takes three for the same, and so do we.
    """
    body = line.rstrip(" \t")
    if not body.endswith(escape) or body.endswith(escape * 2):
        return line, False
    return body[:-1], True


class _Reader:
    """One pass over the lines of a file."""

    def __init__(self, text: str, path: str) -> None:
        lines = text.removeprefix("\ufeff").split("\n")
        self._lines = [line + "\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
        self._path = path
        self._at = 0
        self._escape = "\\"
        self._directives: set[str] | None = set()  # None once a line was none
        self._comments: list[str] = []
        self._nodes: list[Node] = []
        self._warnings: list[ParseWarning] = []

    def read(self) -> Tree:
        while self._at < len(self._lines):
            raw = self._next()
            line = raw.rstrip("\r\n").lstrip(SPACE)
            if self._take_directive(line):
                continue
            if line.startswith("#"):
                self._take_comment(raw)
            elif line:
                self._take_instruction(line)
        if not self._nodes:
            at = max(self._at, 1)
            raise self._error(at, "file with no instructions", hint="a Dockerfile begins with FROM")
        return Tree(self._path, tuple(self._nodes), self._escape, tuple(self._warnings))

    def _next(self) -> str:
        line = self._lines[self._at]
        self._at += 1
        if len(line) > _LONGEST_LINE // 4 and len(line.rstrip("\n").encode("utf-8", "surrogatepass")) > _LONGEST_LINE:
            raise self._error(self._at, f"dockerfile line greater than max allowed size of {_LONGEST_LINE}")
        return line

    def _error(self, line: int, reason: str, *, hint: str | None = None) -> DockerfileError:
        text = self._lines[line - 1].rstrip("\r\n") if line <= len(self._lines) else ""
        return DockerfileError(reason, path=self._path, line=line, text=text, hint=hint)

    def _take_directive(self, line: str) -> bool:
        directive = _directive(line) if self._directives is not None else None
        if directive is None or self._directives is None:
            self._directives = None
            return False
        name, value = directive
        if name in self._directives:
            raise self._error(self._at, f"only one {name} parser directive can be used")
        self._directives.add(name)
        if name == "escape":
            if value not in ("\\", "`"):
                raise self._error(self._at, f"invalid escape token '{value}' does not match ` or \\")
            self._escape = value
        return True

    def _take_comment(self, raw: str) -> None:
        comment = raw[1:].strip(SPACE)
        if comment:
            self._comments.append(comment)
        else:  # an empty comment line parts a file's header from what is said about the instruction
            self._comments.clear()

    def _take_instruction(self, first: str) -> None:
        start = self._at
        line = self._continued(first)
        text = self._lines[start - 1].rstrip("\r\n")
        origin = Origin(self._path, start, self._at, text, line.strip(SPACE))
        with origin.placing():
            node = _node(line, self._escape, origin)
            heredocs = heredocs_in(line) if "<<" in line and _may_open_heredocs(node) else []
        if heredocs:
            filled = tuple(self._filled(heredoc, origin) for heredoc in heredocs)
            node = replace(node, heredocs=filled, origin=replace(origin, end_line=self._at))
        self._nodes.append(replace(node, comments=tuple(self._comments)))
        self._comments.clear()

    def _continued(self, first: str) -> str:
        """Join ``first`` with the lines that continue it. Comments and empty lines among them vanish."""
        part, is_open = _without_continuation(first, self._escape)
        parts = [part]
        has_empty_line = False
        while is_open and self._at < len(self._lines):
            line = self._next().rstrip("\r\n")
            if _is_comment(line):
                continue
            if not line.strip(SPACE):
                has_empty_line = True
                continue
            part, is_open = _without_continuation(line, self._escape)
            parts.append(part)
        joined = "".join(parts)
        if has_empty_line:
            self._warnings.append(ParseWarning(self._at, f"Empty continuation line found in: {joined}"))
        return joined

    def _filled(self, heredoc: Heredoc, origin: Origin) -> Heredoc:
        body: list[str] = []
        while self._at < len(self._lines):
            line = self._next()
            if heredoc.ends_at(line):
                return replace(heredoc, content="".join(body))
            body.append(line)
        raise origin.error("unterminated heredoc", hint=f"no line below reads {heredoc.name} and nothing else")


def _node(line: str, escape: str, origin: Origin, *, is_trigger: bool = False) -> Node:
    name, flags, rest = split_command(line, escape)
    keyword = name.lower()
    if keyword != "onbuild":
        arguments, is_json = split_arguments(keyword, rest, escape)
        return Node(name, flags, arguments, is_json, line, origin)
    if is_trigger:
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    child = _node(rest, escape, replace(origin, source=rest), is_trigger=True) if rest else None
    return Node(name, flags, (), False, line, origin, child)


def _may_open_heredocs(node: Node) -> bool:
    node = node.child or node
    return node.keyword in ("run", "copy", "add") and not node.is_json
