"""``@pytest.mark.container``: read from a test, and found again in its file when it is wrong."""

from __future__ import annotations

import ast
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_capsule.errors import BuildError, CapsuleError, UnsupportedHost, UsageError
from pytest_capsule.spec import ContainerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

MARK = "container"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a marker stands: as a text ``file:line``, looked up only when there is something to say about it.

    ``position`` is that of the marker among the ``count`` ones of ``node``, from the top.
    """

    item: pytest.Item
    node: pytest.Item | pytest.Collector
    position: int
    count: int

    def __str__(self) -> str:
        lines = _lines_of_marks(self.node)
        line = lines[self.position] if len(lines) == self.count else _line_of(self.item)
        return _from_here(f"{self.node.path}:{line}", self.item.config)


@dataclass(frozen=True, slots=True)
class Marked:
    """What one marker asks for, and ``where`` it stands."""

    spec: ContainerSpec
    where: Place


def read_marks(item: pytest.Item) -> list[Marked]:
    """The markers of a test in the order in which one reads them: module, class, function, each from the top.

    ``UsageError`` with the marker's file and line for one that is wrong.
    """
    found: list[Marked] = []
    by_node: dict[pytest.Item | pytest.Collector, list[pytest.Mark]] = {}
    for node, mark in item.iter_markers_with_node(MARK):
        by_node.setdefault(node, []).append(mark)  # type: ignore[arg-type]
    for node in item.listchain():
        marks = by_node.get(node, [])  # type: ignore[call-overload]
        for position, mark in enumerate(marks if _is_listed(node) else reversed(marks)):
            where = Place(item, node, position, len(marks))  # type: ignore[arg-type]
            try:
                found.append(Marked(_spec_of(mark, item.config), where))
            except CapsuleError as error:
                raise placed(error, where) from None
    if len(found) > 1:
        _check_names(found)
    return found


def _spec_of(mark: pytest.Mark, config: pytest.Config) -> ContainerSpec:
    """What a marker asks for; read once for all tests that share it, such as those of one parametrized function."""
    from pytest_capsule.settings import SPECS  # which imports pytest

    known = config.stash.setdefault(SPECS, {})
    if id(mark) not in known:  # which cannot be hashed, and stays alive with its spec
        known[id(mark)] = mark, ContainerSpec.of(*mark.args, **mark.kwargs)
    return known[id(mark)][1]


def _is_listed(node: object) -> bool:
    """Whether a node's markers stand in a list, ``pytestmark``, which pytest leaves as it is written.

    Decorators are applied from the bottom, and pytest makes a list of marks of them in that order.
    """
    written = getattr(getattr(node, "obj", None), "pytestmark", ())
    return isinstance(written, (list, tuple)) and any(hasattr(one, "mark") for one in written)


def placed(error: CapsuleError, where: Place | str) -> UsageError:
    """The same error, with the place of the marker or factory before it."""
    return UsageError(f"{where}: {error.message}", hint=error.hint)


@contextlib.contextmanager
def explaining(where: Place | str, config: pytest.Config) -> Iterator[None]:
    """Let an error of ours be the report's own words: with the place that asked for it, and no traceback.

    On a host that cannot run containers the setting ``capsule_unsupported`` decides whether the test fails or skips.
    """
    import pytest

    from pytest_capsule.settings import SETTINGS  # which imports pytest

    try:
        yield
    except CapsuleError as error:
        place = _from_here(str(where), config)
        message = str(placed(error, place)) if place else str(error)
        if isinstance(error, BuildError):
            message = f"{place}: the image cannot be built\n{error}"
        if isinstance(error, UnsupportedHost) and config.stash[SETTINGS].unsupported == "skip":
            raise pytest.skip.Exception(message) from None
        raise pytest.fail.Exception(message, pytrace=False) from None


def _check_names(found: list[Marked]) -> None:
    names: set[str] = set()
    for marked in found:
        if not marked.spec.name:
            raise UsageError(f"{marked.where}: a test with several containers gives each a name=")
        if marked.spec.name in names:
            raise UsageError(f"{marked.where}: this test has two containers with name={marked.spec.name!r}")
        names.add(marked.spec.name)


def _from_here(place: str, config: pytest.Config) -> str:
    """The same as whoever has called pytest would write it."""
    return place.removeprefix(os.path.join(config.invocation_params.dir, ""))


def _line_of(item: pytest.Item) -> int:
    return (item.location[1] or 0) + 1


def _lines_of_marks(node: object) -> list[int]:
    """Where the ``container`` markers of a module, class or function stand, from the top."""
    path = getattr(node, "path", None)
    if path is None or not Path(path).is_file():
        return []
    try:
        tree = ast.parse(Path(path).read_bytes())
    except SyntaxError:
        return []
    scope: ast.AST = tree
    name = getattr(node, "originalname", None) or getattr(node, "name", "")
    target = getattr(node, "obj", None)
    if not hasattr(target, "__file__"):  # not a module
        first = getattr(getattr(target, "__code__", None), "co_firstlineno", None)
        definitions = [
            one
            for one in ast.walk(tree)
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and one.name == name
        ]
        exact = [one for one in definitions if first in {one.lineno, *(d.lineno for d in one.decorator_list)}]
        if not definitions:
            return []
        scope = (exact or definitions)[0]
        expressions: list[ast.AST] = list(scope.decorator_list)
        expressions += (
            [one for one in scope.body if isinstance(one, ast.Assign)] if isinstance(scope, ast.ClassDef) else []
        )
    else:
        expressions = [one for one in tree.body if isinstance(one, ast.Assign)]
    calls = (one for expression in expressions for one in ast.walk(expression) if isinstance(one, ast.Call))
    return sorted(call.lineno for call in calls if _is_mark(call.func))


def _is_mark(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and function.attr == MARK
        and (getattr(function.value, "attr", None) == "mark" or getattr(function.value, "id", None) == "mark")
    )
