"""How a build looks while it goes on: the plain form of ``docker build --progress=plain``, step by step.

Nothing is written here: each piece of text goes to a ``write`` that the caller gives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_capsule.build.events import BuildEvent


class PlainProgress:
    """Turns the ``BuildEvent`` values of one build into BuildKit's plain lines; call it with each of them.

    ``write`` takes text that may hold several lines; ``name`` is the reference that the image gets; ``clock`` gives
    seconds. Source: BuildKit's ``util/progress/progressui/printer.go``.
    """

    def __init__(
        self, write: Callable[[str], object], *, name: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._name = name
        self._clock = clock
        self._numbers: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._unfinished: dict[str, str] = {}

    def __call__(self, event: BuildEvent) -> None:
        """Show one event."""
        {
            "start": self._start,
            "output": self._output,
            "cached": self._cached,
            "done": self._done,
            "failed": self._failed,
            "canceled": self._canceled,
            "image": self._image,
        }[event.kind](event)

    def _number(self, event: BuildEvent) -> int:
        """The number that all lines of a step begin with; its first line is its name."""
        if event.name not in self._numbers:
            self._numbers[event.name] = len(self._numbers) + 1
            self._started[event.name] = self._clock()
            first_line = " ".join(event.name.split())
            self._write(f"#{self._numbers[event.name]} {first_line}\n")
        return self._numbers[event.name]

    def _start(self, event: BuildEvent) -> None:
        number = self._number(event)
        if event.text:
            self._write(f"#{number} not cached: {event.text}\n")

    def _output(self, event: BuildEvent) -> None:
        """Whole lines only: the rest waits for its end."""
        number = self._number(event)
        *lines, rest = (self._unfinished.pop(event.name, "") + event.text).split("\n")
        if rest:
            self._unfinished[event.name] = rest
        passed = self._clock() - self._started[event.name]
        self._write("".join(f"#{number} {passed:.3f} {_last_state(line)}\n" for line in lines))

    def _finish_output(self, event: BuildEvent) -> int:
        number = self._number(event)
        if rest := self._unfinished.pop(event.name, ""):
            passed = self._clock() - self._started[event.name]
            self._write(f"#{number} {passed:.3f} {_last_state(rest)}\n")
        return number

    def _cached(self, event: BuildEvent) -> None:
        self._write(f"#{self._number(event)} CACHED\n\n")

    def _done(self, event: BuildEvent) -> None:
        self._write(f"#{self._finish_output(event)} DONE {event.seconds:.1f}s\n\n")

    def _failed(self, event: BuildEvent) -> None:
        self._write(f"#{self._finish_output(event)} ERROR: {event.text}\n")

    def _canceled(self, event: BuildEvent) -> None:
        self._write(f"#{self._finish_output(event)} CANCELED\n\n")

    def _image(self, event: BuildEvent) -> None:
        number = len(self._numbers) + 1
        lines = ["exporting to image", f"writing image {event.text} done"]
        if self._name:
            lines.append(f"naming to {self._name} done")
        self._write("".join(f"#{number} {line}\n" for line in (*lines, f"DONE {event.seconds:.1f}s")))


def _last_state(line: str) -> str:
    r"""What a terminal would show of a line in the end: a progress bar rewrites it after each ``\r``."""
    return line.rstrip("\r").rpartition("\r")[2]
