"""What a failed ``assert`` shows of values that come out of containers."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pytest_capsule.runtime.changes import Change
from pytest_capsule.runtime.process import ExecResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Result = ExecResult[str] | ExecResult[bytes]


def explain(operator: str, left: object, right: object) -> list[str] | None:
    """The lines that say in what two values differ; ``None`` where pytest's own do."""
    if operator != "==":
        return None
    if isinstance(left, ExecResult) or isinstance(right, ExecResult):
        return _results(left, right)
    if isinstance(left, list) and isinstance(right, list) and _are_changes([*left, *right]):
        return _change_lists(left, right)
    if isinstance(left, bytes) and isinstance(right, bytes):
        return _contents(left, right)
    return None


def _results(left: object, right: object) -> list[str]:
    if not (isinstance(left, ExecResult) and isinstance(right, ExecResult)):
        result, other = (left, right) if isinstance(left, ExecResult) else (right, left)
        field = "exit_code" if isinstance(other, int) else "stdout"
        return [
            f"an ExecResult == {other!r}",
            f"compare one of its fields, such as .{field}:",
            *_shown(result),  # type: ignore[arg-type]
        ]
    lines = ["the results of two commands differ"]
    if left.exit_code != right.exit_code:
        lines.append(f"exit_code: {left.exit_code} != {right.exit_code}")
    for name in ("stdout", "stderr"):
        ours, theirs = getattr(left, name), getattr(right, name)
        if ours != theirs:
            lines += [f"{name}:", *_difference(_text(ours), _text(theirs))]
    return lines


def _shown(result: Result) -> Iterator[str]:
    yield f"exit_code: {result.exit_code}"
    for name in ("stdout", "stderr"):
        yield f"{name}:"
        yield from (f"  {line}" for line in _text(getattr(result, name)).splitlines())


def _are_changes(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(one, Change) for one in values)


def _change_lists(left: Sequence[Change], right: Sequence[Change]) -> list[str]:
    """A set of files has no order that one would look for a difference in."""
    lines = ["two lists of changed files differ"]
    lines += [f"only on the left:  {change}" for change in left if change not in right]
    lines += [f"only on the right: {change}" for change in right if change not in left]
    return lines if len(lines) > 1 else ["two lists of changed files have the same entries in another order or number"]


def _contents(left: bytes, right: bytes) -> list[str] | None:
    """Text that was read as bytes; what is no text is pytest's to show."""
    try:
        ours, theirs = left.decode(), right.decode()
    except UnicodeDecodeError:
        return None
    if "\n" not in ours + theirs:
        return None
    return ["two files differ", *_difference(ours, theirs)]


def _difference(left: str, right: str) -> list[str]:
    """As pytest marks it: ``-`` is what was expected, ``+`` what is there."""
    difference = difflib.ndiff(right.splitlines(keepends=True), left.splitlines(keepends=True))
    return [line.rstrip("\n") if line.endswith("\n") else f"{line}  (no newline at the end)" for line in difference]


def _text(output: str | bytes) -> str:
    return output if isinstance(output, str) else output.decode("utf-8", "backslashreplace")
