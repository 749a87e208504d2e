"""What a build tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One thing that happened in a build.

    ``kind``: ``start``, ``cached``, ``output``, ``done`` or ``failed`` of a step, or ``image`` at the end. ``name`` is
    the step as BuildKit shows it (``[2/5] RUN make``), ``line`` its line in the Dockerfile, ``text`` a piece of output
    or the image's id, ``seconds`` how long the step took.
    """

    kind: str
    name: str
    step: int = 0
    steps: int = 0
    line: int = 0
    text: str = ""
    seconds: float = 0.0
