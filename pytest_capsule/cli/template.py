"""``--format``: templates as Go has them (``text/template``), with the functions that Docker's client adds.

Fields, pipelines, variables, ``if``, ``range`` and ``with`` are there; templates that name others are not. Values are
those of JSON, printed as Go prints them. Sources: Go, ``text/template``; docker/cli, ``templates``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_capsule.errors import UsageError

_ACTION = re.compile(
    r"\{\{(?P<left>-\s)?\s*(?P<comment>/\*.*?\*/)?(?P<inner>(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|'(?:\\.|[^'\\])*'|[^\"`'])*?)"
    r"(?P<right>\s-)?\}\}",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(?P<number>[+-]?\d+(?:\.\d+)?)|(?P<field>\.[A-Za-z_]\w*)"
    r"|(?P<variable>\$\w*)|(?P<word>[A-Za-z_]\w*)|(?P<sign>:=|[=|(),.]))(?P<space>\s*)"
)
_BLOCKS = ("if", "range", "with")
_CONSTANTS = {"true": True, "false": False, "nil": None}
_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\d*)(?:\.(?P<precision>\d+))?(?P<verb>[a-zA-Z%])")

Scope = dict[str, Any]
Expression = Callable[[Any, Scope], Any]
Node = Callable[[Any, Scope], Iterator[str]]


class Template:
    """A template, made with ``parse``."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read one. ``UsageError`` where it is none."""
        reading = _Blocks(list(_parts(text)))
        nodes, _ = reading.until()
        return cls(nodes)

    def render(self, value: Any) -> str:
        """What it says of a value. ``UsageError`` where it asks for what is not there."""
        return "".join(_all(self._nodes, value, {"$": value}))


def _all(nodes: Sequence[Node], value: Any, scope: Scope) -> Iterator[str]:
    for node in nodes:
        yield from node(value, scope)


def _wrong(reason: str) -> UsageError:
    return UsageError(
        f"--format: {reason}", hint="write a template of Go's, such as '{{.ID}}' or '{{json .Config}}', or json"
    )


# -- the text and its actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of text, or what stands in one pair of braces."""

    text: str
    is_action: bool


def _parts(text: str) -> Iterator[_Part]:
    at, trim = 0, False
    while (start := text.find("{{", at)) >= 0:
        found = _ACTION.match(text, start)
        if found is None:
            raise _wrong("an action is not closed: '}}' is missing")
        before = text[at:start]
        before = before.lstrip() if trim else before
        yield _Part(before.rstrip() if found["left"] else before, False)
        if not found["comment"]:
            yield _Part(found["inner"].strip(), True)
        at, trim = found.end(), bool(found["right"])
    yield _Part(text[at:].lstrip() if trim else text[at:], False)


class _Blocks:
    """Puts the parts of a template together: what lies between ``range`` and ``end`` is one node."""

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts
        self._at = 0

    def until(self, *ends: str) -> tuple[list[Node], str]:
        """The nodes up to an action that begins with one of these words, and that action; or up to the end."""
        nodes: list[Node] = []
        while self._at < len(self._parts):
            part = self._parts[self._at]
            self._at += 1
            word = part.text.partition(" ")[0] if part.is_action else ""
            if not part.is_action:
                nodes.append(_text(part.text))
            elif word in ends:
                return nodes, part.text
            elif word in _BLOCKS:
                nodes.append(self._block(word, part.text[len(word) :]))
            elif word in ("else", "end"):
                raise _wrong(f"'{word}' stands alone")
            else:
                nodes.append(_shown(_Pipeline(part.text).whole()))
        if ends:
            raise _wrong("'{{end}}' is missing")
        return nodes, ""

    def _block(self, word: str, condition: str) -> Node:
        names: list[str] = []
        assigned = re.match(r"\s*(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=", condition)
        if assigned and word == "range":
            names = [name for name in assigned.groups() if name]
            condition = condition[assigned.end() :]
        pipeline = _Pipeline(condition).whole()
        then, end = self.until("else", "end")
        otherwise: list[Node] = []
        if end.startswith("else"):
            rest = end[len("else") :].strip()
            if rest:
                otherwise = [self._block(rest.partition(" ")[0], rest.partition(" ")[2])]
            else:
                otherwise, _ = self.until("end")
        if word == "range":
            return _range(pipeline, names, then, otherwise)
        return _if(pipeline, then, otherwise, changes_dot=word == "with")


def _text(text: str) -> Node:
    return lambda value, scope: iter((text,))


def _shown(expression: Expression) -> Node:
    def node(value: Any, scope: Scope) -> Iterator[str]:
        found = expression(value, scope)
        if found is not _NOTHING:
            yield shown(found)

    return node


def _if(condition: Expression, then: Sequence[Node], otherwise: Sequence[Node], *, changes_dot: bool) -> Node:
    def node(value: Any, scope: Scope) -> Iterator[str]:
        inner = dict(scope)
        found = condition(value, inner)
        if found:
            yield from _all(then, found if changes_dot else value, inner)
        else:
            yield from _all(otherwise, value, inner)

    return node


def _range(over: Expression, names: Sequence[str], then: Sequence[Node], otherwise: Sequence[Node]) -> Node:
    def node(value: Any, scope: Scope) -> Iterator[str]:
        found = over(value, scope)
        if isinstance(found, Mapping):
            pairs = sorted(found.items())
        elif isinstance(found, (list, tuple)):
            pairs = list(enumerate(found))
        elif found is None:
            pairs = []
        else:
            raise _wrong(f"range can't iterate over {shown(found)}")
        for key, item in pairs:
            given = dict(zip(names, (key, item), strict=False)) if len(names) == 2 else dict.fromkeys(names, item)
            yield from _all(then, item, {**scope, **given})
        if not pairs:
            yield from _all(otherwise, value, scope)

    return node


# -- what stands in an action -------------------------------------------------------------------------------------

_NOTHING = object()


class _Pipeline:
    """Commands with a bar between them: each is given the one before it as its last argument."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, bool]] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise _wrong(f"{text[at:].strip()!r} makes no sense in {{{{{text}}}}}")
            kind = next(name for name in ("text", "number", "field", "variable", "word", "sign") if found[name])
            self._tokens.append((kind, found[kind], bool(found["space"])))
            at = found.end()

    def whole(self) -> Expression:
        """All of it."""
        assigned = ""
        if len(self._tokens) > 1 and self._tokens[0][0] == "variable" and self._tokens[1][1] in (":=", "="):
            assigned = self._tokens.pop(0)[1]
            self._tokens.pop(0)
        found = self._pipeline()
        if self._tokens:
            raise _wrong(f"{self._tokens[0][1]!r} is not expected in {{{{{self._text}}}}}")
        return _assigning(assigned, found) if assigned else found

    def _pipeline(self) -> Expression:
        found = self._command(None)
        while self._tokens and self._tokens[0][1] == "|":
            self._tokens.pop(0)
            found = self._command(found)
        return found

    def _command(self, piped: Expression | None) -> Expression:
        if not self._tokens:
            raise _wrong(f"a value is missing in {{{{{self._text}}}}}")
        kind, name, _ = self._tokens[0]
        if kind == "word" and name not in _CONSTANTS:
            self._tokens.pop(0)
            if name not in _FUNCTIONS:
                raise _wrong(f"function {name!r} is not defined")
            arguments = list(self._operands())
            return _calling(name, [*arguments, piped] if piped else arguments)
        first, *others = self._operands()
        if others or piped:
            raise _wrong(f"{name!r} is no function and takes no arguments")
        return first

    def _operands(self) -> Iterator[Expression]:
        while self._tokens and self._tokens[0][1] not in ("|", ")"):
            yield self._operand()

    def _operand(self) -> Expression:
        kind, token, space = self._tokens.pop(0)
        found: Expression
        if kind == "text":
            return _constant(token[1:-1] if token[0] == "`" else _unquoted(token))
        if kind == "number":
            return _constant(float(token) if "." in token else int(token))
        if kind == "word":
            if token in _CONSTANTS:
                return _constant(_CONSTANTS[token])
            if token not in _FUNCTIONS:
                raise _wrong(f"function {token!r} is not defined")
            return _calling(token, [])
        if kind == "variable":
            found = _variable(token)
        elif kind == "field":
            found = _field(token[1:], lambda value, scope: value)
        elif token == ".":
            return lambda value, scope: value
        elif token == "(":
            found = self._pipeline()
            if not self._tokens or self._tokens[0][1] != ")":
                raise _wrong(f"a bracket is not closed in {{{{{self._text}}}}}")
            space = self._tokens.pop(0)[2]
        else:
            raise _wrong(f"{token!r} is not expected in {{{{{self._text}}}}}")
        while not space and self._tokens and self._tokens[0][0] == "field":
            _, token, space = self._tokens.pop(0)
            found = _field(token[1:], found)
        return found


def _constant(constant: Any) -> Expression:
    return lambda value, scope: constant


def _unquoted(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        raise _wrong(f"{token} is no text as Go writes it") from None


def _variable(name: str) -> Expression:
    def expression(value: Any, scope: Scope) -> Any:
        if name not in scope:
            raise _wrong(f"undefined variable {name!r}")
        return scope[name]

    return expression


def _assigning(name: str, expression: Expression) -> Expression:
    def assign(value: Any, scope: Scope) -> Any:
        scope[name] = expression(value, scope)
        return _NOTHING

    return assign


def _field(name: str, of: Expression) -> Expression:
    def expression(value: Any, scope: Scope) -> Any:
        owner = of(value, scope)
        if not isinstance(owner, Mapping):
            raise _wrong(f"there is no field .{name} in {shown(owner)!r}")
        if name not in owner:
            raise _wrong(f"there is no field .{name}; there are: {', '.join(map(str, owner)) or 'none'}")
        return owner[name]

    return expression


def _calling(name: str, arguments: Sequence[Expression]) -> Expression:
    function = _FUNCTIONS[name]

    def expression(value: Any, scope: Scope) -> Any:
        given = [argument(value, scope) for argument in arguments]
        try:
            return function(*given)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            raise _wrong(f"{name} cannot be called with {', '.join(map(to_json, given)) or 'nothing'}") from None

    return expression


# -- functions, and how values look -------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """As Go encodes it: without spaces, and with nothing in it that HTML would take for its own."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(value: Any) -> str:
    """As Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{shown(key)}:{shown(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")  # Go gives the zero of what a map holds
        elif isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise IndexError
        else:
            value = value[key]
    return value


def _printed(format: str, *arguments: Any) -> str:
    left = iter(arguments)

    def verb(found: re.Match[str]) -> str:
        if found["verb"] == "%":
            return "%"
        value = next(left, _NOTHING)
        if value is _NOTHING:
            return f"%!{found['verb']}(MISSING)"
        spec = f"%{found['flags']}{found['width']}" + (f".{found['precision']}" if found["precision"] else "")
        if found["verb"] == "q":
            return f"{spec}s" % json.dumps(shown(value), ensure_ascii=False)
        if found["verb"] in "vs":
            return f"{spec}s" % shown(value)
        return f"{spec}{found['verb']}" % value

    return _VERB.sub(verb, format)


def _joined(items: Sequence[Any], separator: str) -> str:
    return separator.join(map(shown, items))


def _padded(text: str, before: int, after: int) -> str:
    return f"{' ' * before}{text}{' ' * after}" if text else ""


def _and(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "split": lambda text, separator: text.split(separator),
    "join": _joined,
    "title": str.title,
    "lower": str.lower,
    "upper": str.upper,
    "pad": _padded,
    "truncate": lambda text, length: text[:length],
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "print": lambda *values: "".join(map(shown, values)),
    "printf": _printed,
    "len": len,
    "index": _index,
    "not": lambda value: not value,
    "and": _and,
    "or": _or,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
}
