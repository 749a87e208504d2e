"""What a build tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One thing that happened in a build.

    ``kind``: ``start``, ``cached``, ``output``, ``done``, ``failed`` or ``canceled`` of a step, ``warning`` of a build
    check, or ``image`` at the end. ``name`` is the step as BuildKit shows it (``[2/5] RUN make``), ``step`` its number
    in its stage (0 for what the build does on its own, such as reading the Dockerfile), ``line`` its line in
    ``dockerfile``, ``seconds`` its time (of a ``cached`` one: what it took when it was carried out). ``text`` is a
    piece of output, the reason of a failure, the warning, the image's id, or, of ``start``, which input has changed
    since the last build (``src/main.py changed``; empty where nothing has, or nothing was before).
    """

    kind: str
    name: str
    step: int = 0
    steps: int = 0
    line: int = 0
    text: str = ""
    seconds: float = 0.0
    dockerfile: str = ""
