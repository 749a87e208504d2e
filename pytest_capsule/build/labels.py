"""What a build's steps are called while it goes on, as BuildKit's progress calls them: ``[build 2/5] RUN make``.

Source: ``prefixCommand``, ``processCmdEnv`` and ``summarizeHeredoc`` in ``dockerfile2llb/convert.go``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_capsule.build.events import BuildEvent
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.words import Dialect, expand
from pytest_capsule.errors import DockerfileError


@dataclass(frozen=True, slots=True)
class Label:
    """How the events of a step name it, and its line in the Dockerfile; ``step`` is 0 outside of the stages."""

    name: str
    step: int = 0
    steps: int = 0
    line: int = 0

    def event(self, kind: str, *, text: str = "", seconds: float = 0.0) -> BuildEvent:
        """An event of this step."""
        return BuildEvent(kind, self.name, self.step, self.steps, self.line, text, seconds)


def internal(what: str) -> Label:
    """A step of the build's own."""
    return Label(f"[internal] {what}")


@dataclass
class Numbering:
    """Counts the steps of one stage, whose name is empty where it is the only one."""

    stage: str
    steps: int
    step: int = 0

    def next(self, shown: str, line: int, *, is_trigger: bool = False) -> Label:
        """The label of the next step."""
        self.step += 1
        number = f"{self.step:>{len(str(self.steps))}}/{self.steps}"
        place = f"{self.stage} {number}" if self.stage else number
        return Label(f"[{place}] {'ONBUILD ' if is_trigger else ''}{shown}", self.step, self.steps, line)


def shown(instruction: ins.Instruction, variables: Mapping[str, str], escape: str) -> str:
    """An instruction with its variables replaced: in a RUN those that have a value, for the rest are its shell's."""
    text = instruction.source
    dialect = Dialect(escape)
    if isinstance(instruction, ins.Run):
        dialect = Dialect(escape, raw_quotes=True, keep_unset=True)
        secrets = {mount.env or mount.id: "****" for mount in instruction.mounts if mount.env is not None}
        variables = {**variables, **secrets}
        if instruction.is_all_heredoc():
            text += f" ({_first_line(instruction.heredocs[0].content)})"
    with contextlib.suppress(DockerfileError):  # a shell may know what BuildKit's lexer does not
        text = expand(text, variables, dialect).text
    keyword, space, rest = text.partition(" ")
    return f"{keyword.upper()}{space}{rest}"


def _first_line(text: str) -> str:
    first, _, rest = text.strip().partition("\n")
    return f"{first.rstrip()}..." if rest else first
