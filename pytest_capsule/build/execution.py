"""Steps that change files: each taken from the cache under its key, or carried out and kept there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pytest_capsule.build.errands import Errands
from pytest_capsule.build.events import BuildEvent
from pytest_capsule.build.labels import Label
from pytest_capsule.build.reasons import StageReasons, Step
from pytest_capsule.build.schedule import Canceled
from pytest_capsule.errors import CapsuleError, UnsupportedHost
from pytest_capsule.store.image import Layer, Tree, now
from pytest_capsule.store.store import Store

_PATIENCE = 0.5  # seconds between two looks at whether the build was given up
_SPARE = 256 << 20  # bytes that must be free where more than the image is kept
Output = Callable[[str], None]
Work = Callable[[Path, Output], None]
"""What a step does: it leaves the files it wrote in the given folder's ``fs``, in overlay form."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a step gave: its layer, ``None`` where it changed no file, when that was made, and in how many seconds."""

    layer: Layer | None
    created: str
    seconds: float


class Sharing(Protocol):
    """Steps that were carried out elsewhere, and ours for others: called from the threads of all stages."""

    def recall(self, key: str) -> Result | None:
        """What the step with that key gave elsewhere, its layer in the store now; ``None`` where nobody knows."""

    def note(self, step: Step, result: Result) -> None:
        """What a step of this build gave."""

    def finish(self, key: str) -> None:
        """The image is made: ``key`` is that of its last step."""


class StepFailed(Exception):
    """A step that failed: ``code`` is the exit code of its command, ``output`` what it printed.

    ``layer`` is what its command has written, where there was room to keep it.
    """

    def __init__(self, reason: str, code: int | None = None, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.hint = hint
        self.output = ""
        self.layer: Layer | None = None


class Execution:
    """The cache of one build's steps, and the carrying out of those that are not in it.

    Once ``canceled`` is set, no step begins, and one that is going on counts as given up instead of failed.
    """

    def __init__(
        self,
        store: Store,
        tell: Callable[[BuildEvent], None],
        canceled: threading.Event,
        sharing: Sharing | None,
        errands: Errands,
        *,
        no_cache: bool,
    ) -> None:
        self._store = store
        self._sharing = sharing
        self.tell = tell
        self._canceled = canceled
        self._errands = errands
        self._no_cache = no_cache

    def obtain(self, step: Step, label: Label, work: Work, reasons: StageReasons) -> Result:
        """What a step gives; ``StepFailed`` when it had to be carried out and failed."""
        result = self._obtain(step, label, work, reasons)
        if self._sharing is not None:
            self._sharing.note(step, result)
        return result

    def _obtain(self, step: Step, label: Label, work: Work, reasons: StageReasons) -> Result:
        record = self._recall(step.cached_as)
        if record is None:
            with self._lock(step.cached_as):  # whoever else builds the same waits here, and then finds it
                record = self._recall(step.cached_as) or self._recall_shared(step.cached_as)
                if record is None:
                    result = self._carry_out(label, work, reasons.find(step))
                    self._keep(step.cached_as, result)
                    self._errands.add(partial(reasons.has_run, step))
                    return result
        seconds = record.get("seconds", 0.0)  # of a store that is older than this line there are none
        self.tell(label.event("cached", seconds=seconds))
        return Result(self._store.layer(record["layer"]) if record["layer"] else None, record["created"], seconds)

    def tell_failure(self, label: Label, failure: StepFailed) -> None:
        """Tell of a step that failed before it could be looked for in the cache."""
        self.tell(label.event("start"))
        self.tell(label.event("failed", text=failure.reason, seconds=0.0))

    def _recall(self, key: str) -> dict[str, Any] | None:
        return None if self._no_cache else self._store.step(key)

    def _recall_shared(self, key: str) -> dict[str, Any] | None:
        if self._sharing is None or self._no_cache:
            return None
        result = self._sharing.recall(key)
        return None if result is None else self._keep(key, result)

    def _keep(self, key: str, result: Result) -> dict[str, Any]:
        layer = result.layer and result.layer.id
        record = {"layer": layer, "created": result.created, "seconds": result.seconds}
        self._store.keep_step(key, record)
        return record

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """The lock of a step; whoever waits for another process must still hear that the build was given up."""
        with contextlib.ExitStack() as held:
            while not self._canceled.is_set():
                with contextlib.suppress(TimeoutError):
                    held.enter_context(self._store.lock(key, timeout=_PATIENCE))
                    break
            else:
                raise Canceled
            yield

    def _carry_out(self, label: Label, work: Work, reason: str) -> Result:
        self.tell(label.event("start", text=reason))
        started = time.monotonic()
        printed: list[str] = []

        def note(text: str) -> None:
            printed.append(text)
            self.tell(label.event("output", text=text))

        try:
            layer = self._make_layer(work, note)
        except (StepFailed, OSError, CapsuleError) as error:
            passed = time.monotonic() - started
            if self._canceled.is_set():
                self.tell(label.event("canceled", seconds=passed))
                raise Canceled from None
            if isinstance(error, UnsupportedHost):
                raise
            failure = _explained(error)
            failure.output = "".join(printed)
            self.tell(label.event("failed", text=failure.reason, seconds=passed))
            raise failure from None
        passed = time.monotonic() - started
        self.tell(label.event("done", seconds=passed))
        return Result(layer, now(), passed)

    def _make_layer(self, work: Work, note: Output) -> Layer | None:
        self._errands.settle()  # what an earlier step had for itself takes no room beside what this one has
        with self._store.scratch(self._errands.add) as scratch:
            written = scratch / "fs"
            try:
                work(scratch, note)
            except StepFailed as failure:
                if not self._canceled.is_set() and shutil.disk_usage(self._store.root).free > _SPARE:
                    failure.layer = self._adopt(written)
                raise
            return self._adopt(written)

    def _adopt(self, written: Path) -> Layer | None:
        """What a step has written as a layer; ``None`` where it wrote nothing, or never came to it."""
        return self._store.adopt(written) if written.exists() and any(written.iterdir()) else None


def _explained(error: StepFailed | OSError | CapsuleError) -> StepFailed:
    if isinstance(error, StepFailed):
        return error
    if isinstance(error, CapsuleError):
        return StepFailed(error.message, hint=error.hint)
    subject = f": {error.filename}" if error.filename else ""
    return StepFailed(f"{error.strerror}{subject}")


def root_key(tree: Tree) -> str:
    """The key of a tree that a stage begins with: what it is made of."""
    return step_key("", {"layers": [layer.origin or layer.id for layer in tree.layers], "host": tree.host_directories})


def step_key(parent: str, inputs: Mapping[str, Any]) -> str:
    """The key of a step: that of the one before it, and all that this one takes."""
    data = json.dumps([parent, inputs], sort_keys=True, default=list)
    return hashlib.sha256(data.encode()).hexdigest()
