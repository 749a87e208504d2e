"""Why a step was not taken from the cache: what it takes, compared with what it took the last time.

The keys of a Dockerfile's last build are remembered, stage by stage, so that a step is found again by the one before
it. What it took is written down when it has run, and read only when a step in its place has to run: one that comes from
the cache costs nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_capsule.store.store import Store

_SHOWN = 3  # files, or variables, of those that have changed
_LONGEST = 60
_KINDS = ("run", "transfer", "mkdir")
_NAMES = {
    "transfer": "destination",
    "mkdir": "path",
    "workdir": "working directory",
    "epoch": "SOURCE_DATE_EPOCH",
    "link": "--link",
    "security": "--security",
    "network": "--network",
}
NO_CACHE = "--no-cache"
PARENT = "the step before it has changed"
BASE = "what its stage is built on has changed"
GONE = "its layer is not in the store any more"


@dataclass(frozen=True, slots=True)
class Step:
    """A step as its key sees it: ``inputs`` is what the key takes, besides ``parent``, the key of the step before it.

    ``contents`` gives a digest for each file that is copied; it is called only where that matters. ``arguments`` are
    the names of build arguments among the variables, ``source`` is the instruction as written. ``link_key`` is the key
    of a ``--link``, whose layer does not depend on the step before it.
    """

    parent: str
    key: str
    source: str
    inputs: Mapping[str, Any]
    arguments: frozenset[str] = frozenset()
    contents: Callable[[], Mapping[str, str]] = dict
    link_key: str = ""

    @property
    def cached_as(self) -> str:
        """The key under which the cache has what it gave."""
        return self.link_key or self.key


class Reasons:
    """The reasons of one build; ``place`` names its Dockerfile."""

    def __init__(self, store: Store, place: str, *, no_cache: bool) -> None:
        self._store = store
        self._name = "keys-" + hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
        self._before: dict[str, list[str]] = store.memory(self._name)
        self._now: dict[str, list[str]] = {}
        self._no_cache = no_cache

    def of_stage(self, index: int, base: str) -> StageReasons:
        """The reasons of a stage that begins with the key ``base``."""
        keys = self._now[str(index)] = [base]
        return StageReasons(self._store, self._before.get(str(index), []), keys, no_cache=self._no_cache)

    def close(self) -> None:
        """Remember the keys; those behind a step that failed are the last build's still."""
        new = {stage: keys for stage, keys in self._now.items() if self._before.get(stage, [])[: len(keys)] != keys}
        if new:
            self._store.remember(self._name, {**self._before, **new})


class StageReasons:
    """The reasons of one stage: ``before`` and ``now`` are its keys in the last build and in this one."""

    def __init__(self, store: Store, before: list[str], now: list[str], *, no_cache: bool) -> None:
        self._store = store
        self._before = before
        self._now = now
        self._no_cache = no_cache
        self._first: str | None = None

    def find(self, step: Step) -> str:
        """Why ``step`` has to run; empty where nothing stood in its place before."""
        if self._no_cache:
            return NO_CACHE
        if self._first is None:
            self._first = self._compare(step)
            return self._first
        return self._first and PARENT

    def _compare(self, step: Step) -> str:
        if self._before and self._before[0] != self._now[0]:
            return BASE
        if step.parent not in self._before[:-1]:
            return ""
        key = self._before[self._before.index(step.parent) + 1]
        before = self._store.memory(f"inputs-{key}")
        if not before:
            return ""
        return GONE if key == step.key else "; ".join(_differences(before, step))

    def has_run(self, step: Step) -> None:
        """Remember what ``step`` took."""
        record = {"source": step.source, "inputs": step.inputs, "contents": step.contents()}
        self._store.remember(f"inputs-{step.key}", record)

    def is_done(self, step: Step) -> None:
        """Go on behind ``step``, wherever it came from."""
        self._now.append(step.key)


def _differences(before: Mapping[str, Any], step: Step) -> Iterator[str]:
    old, new = before["inputs"], step.inputs
    if any((kind in old) != (kind in new) for kind in _KINDS):
        yield f"it was {_shortened(before['source'])}"
        return
    if old.get("sources") != new.get("sources"):
        yield _files(before["contents"], step.contents())
    if _plain(old.get("env")) != _plain(new.get("env")):
        yield _variables(old.get("env", {}), new.get("env", {}), step.arguments)
    for name in sorted((old.keys() | new.keys()) - {"sources", "env", "archives"}):
        if _plain(old.get(name)) != _plain(new.get(name)):
            yield _input(name, old.get(name), new.get(name), before["source"])


def _input(name: str, old: Any, new: Any, source: str) -> str:
    if name == "run":
        return f"the command has changed, it was {_shortened(source)}"
    shown = _NAMES.get(name, name)
    if isinstance(old or new, (list, tuple, dict)):
        return f"{'heredocs' if name in ('scripts', 'files') else shown} changed"
    return f"{shown} {_value(old)} → {_value(new)}"


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    changed = [f"{path} changed" for path in new if path in old and old[path] != new[path]]
    added = [f"{path} added" for path in new if path not in old]
    removed = [f"{path} removed" for path in old if path not in new]
    return _listed([*changed, *added, *removed]) or "the order of files has changed"


def _variables(old: Mapping[str, str], new: Mapping[str, str], arguments: frozenset[str]) -> str:
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return _listed(
        [
            f"{'build argument' if name in arguments else 'variable'} {name} "
            f"{_value(old.get(name))} → {_value(new.get(name))}"
            for name in names
        ]
    )


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f", and {more} more" if more > 0 else "")


def _value(value: Any) -> str:
    return "(none)" if value is None or value == "" else _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
