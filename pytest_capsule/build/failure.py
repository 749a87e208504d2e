"""A step that failed: the images that it leaves to look around in, and the error that names them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_capsule.build.execution import StepFailed
from pytest_capsule.build.request import Request
from pytest_capsule.dockerfile.instructions import Instruction
from pytest_capsule.errors import BuildError
from pytest_capsule.store.image import Image
from pytest_capsule.store.store import Store

_OUTPUT_KEPT = 64 * 1024


class StageFailed(Exception):
    """A stage that ended at ``instruction``.

    ``before`` is the image as it was before, ``after`` as the step left it, where that was kept.
    """

    def __init__(self, instruction: Instruction, failure: StepFailed, before: Image, after: Image | None) -> None:
        super().__init__(failure.reason)
        self.instruction = instruction
        self.failure = failure
        self.before = before
        self.after = after


@dataclass(frozen=True, slots=True)
class Remains:
    """The names under which a Dockerfile's last failure is kept: ``before`` the step, and ``after`` it."""

    before: str
    after: str

    @classmethod
    def of(cls, wanted: Request) -> Remains:
        """The names for a build: they tell the folder, and differ where the Dockerfile does."""
        folder = re.sub(r"[^a-z0-9]+", "-", wanted.context.name.lower()).strip("-") or "build"
        name = f"failed/{folder}-{hashlib.sha256(os.fsencode(wanted.dockerfile)).hexdigest()[:8]}"
        return cls(f"{name}:before", f"{name}:after")

    @contextlib.contextmanager
    def kept(self, store: Store) -> Iterator[None]:
        """Keep what is left of a stage that fails inside, and raise ``BuildError``; forget it where none does."""
        try:
            yield
        except StageFailed as failed:
            self._forget(store)
            store.tag(failed.before, self.before)
            if failed.after is not None:
                store.tag(failed.after, self.after)
            raise self._error(failed) from None
        self._forget(store)

    def _forget(self, store: Store) -> None:
        for name in (self.before, self.after):
            store.untag(name)

    def _error(self, failed: StageFailed) -> BuildError:
        failure, origin, before, after = failed.failure, failed.instruction.origin, failed.before, failed.after
        kept = failure.output[-_OUTPUT_KEPT:].rstrip()
        lines = [f"{origin.path}:{origin.line}: {origin.source}: {failure.reason}"]
        lines += [f"  | {line}" for line in kept.splitlines()]
        lines.append(f"  the image before this step is {before.short_id} ({self.before})")
        hints = [failure.hint] if failure.hint else []
        if before.layers or before.host_directories:  # in nothing there is no shell either
            hints.append(f"look around in it with: capsule run -it --rm {before.short_id} /bin/sh")
        if after is not None:
            lines.append(f"  what the step left is {after.short_id} ({self.after})")
            hints.append(f"and in what the step left: capsule run -it --rm {after.short_id} /bin/sh")
            hints.append("or build with --on-error=shell")
        return BuildError(
            "\n".join(lines),
            step=origin.source,
            path=origin.path,
            line=origin.line,
            exit_code=failure.code,
            output=failure.output,
            image=before.short_id,
            failed_state=None if after is None else after.short_id,
            hint="\n  hint: ".join(hints) or None,
        )
