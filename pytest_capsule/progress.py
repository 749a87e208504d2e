"""How a build looks while it goes on: line by line, redrawn in place on a terminal, or as JSON.

Each of the three is a context manager that is called with every ``BuildEvent`` of a build, or of several at once, and
hands text to a ``write`` that the caller gives; nothing is written here. ``PlainProgress`` needs no terminal::

    with PlainProgress(sys.stderr.write) as progress:
        engine.build("docker/app", progress=progress)

Source of how it looks: BuildKit's ``util/progress/progressui`` (``printer.go`` and ``display.go``).
"""

from __future__ import annotations

import json
import threading
import time
import unicodedata
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from pytest_capsule.build.events import BuildEvent
    from pytest_capsule.distribution import TransferEvent

_TICK = 0.2  # seconds between two drawings while nothing happens
_WINDOW = 6  # lines of output of a step that runs
_COLOURS = {"cached": "34", "done": "34", "failed": "31", "canceled": "33"}
_MARKS = {"cached": "CACHED ", "failed": "ERROR ", "canceled": "CANCELED "}
_UP, _TO_LINE_END, _TO_SCREEN_END, _HIDE, _SHOW = "\x1b[{}A", "\x1b[K", "\x1b[J", "\x1b[?25l", "\x1b[?25h"


class Progress:
    """What the three have in common; itself it shows nothing."""

    def __call__(self, event: BuildEvent) -> None:
        """Show one event."""

    def close(self) -> None:
        """Show what is left to be shown; no event comes after this."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class JsonProgress(Progress):
    """One JSON object a line for each event, with the fields of ``BuildEvent``."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def __call__(self, event: BuildEvent) -> None:
        """Show one event."""
        self._write(json.dumps(asdict(event)) + "\n")


class PlainProgress(Progress):
    """BuildKit's plain lines, none of them clipped.

    ``write`` takes text that may hold several lines; ``name`` is the reference that the image gets; ``clock`` gives
    seconds.
    """

    def __init__(
        self, write: Callable[[str], object], *, name: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._name = name
        self._clock = clock
        self._numbers: dict[tuple[str, str], int] = {}
        self._started: dict[int, float] = {}
        self._unfinished: dict[int, str] = {}
        self._warnings: list[str] = []

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
            "warning": self._warning,
        }[event.kind](event)

    def close(self) -> None:
        """Tell of the warnings."""
        self._write("".join(f"{line}\n" for line in _summary(self._warnings)))
        self._warnings.clear()

    def _number(self, event: BuildEvent) -> int:
        """The number that all lines of a step begin with; its first line is its name."""
        key = event.dockerfile, event.name
        if key not in self._numbers:
            number = self._numbers[key] = len(self._numbers) + 1
            self._started[number] = self._clock()
            self._write(f"#{number} {_one_line(event.name)}\n")
        return self._numbers[key]

    def _start(self, event: BuildEvent) -> None:
        number = self._number(event)
        if event.text:
            self._write(f"#{number} not cached: {event.text}\n")

    def _output(self, event: BuildEvent) -> None:
        """Whole lines only: the rest waits for its end."""
        number = self._number(event)
        *lines, rest = (self._unfinished.pop(number, "") + event.text).split("\n")
        if rest:
            self._unfinished[number] = rest
        passed = self._clock() - self._started[number]
        self._write("".join(f"#{number} {passed:.3f} {_last_state(line)}\n" for line in lines))

    def _finish_output(self, event: BuildEvent) -> int:
        number = self._number(event)
        if rest := self._unfinished.pop(number, ""):
            passed = self._clock() - self._started[number]
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

    def _warning(self, event: BuildEvent) -> None:
        self._warnings.append(event.text)


@dataclass
class _Job:
    """A step as it stands in the live view."""

    name: str
    began: float
    state: str = "start"
    seconds: float = 0.0
    output: list[str] = field(default_factory=lambda: [""])


class LiveProgress(Progress):
    """BuildKit's view of a build on a terminal: all steps, and the last output of those that run, drawn in place.

    ``size`` gives the terminal's columns and rows. In a ``with`` block it is drawn anew several times a second, in a
    thread, for the times of what runs; without one ``draw`` does that.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        size: Callable[[], tuple[int, int]],
        *,
        name: str = "",
        colour: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._size = size
        self._name = name
        self._colour = colour
        self._clock = clock
        self._began = clock()
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._warnings: list[str] = []
        self._drawn = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="capsule-progress", daemon=True)

    def __enter__(self) -> LiveProgress:
        self._write(_HIDE)
        self._ticker.start()
        return self

    def __call__(self, event: BuildEvent) -> None:
        """Take one event in, and draw."""
        with self._lock:
            self._take_in(event)
            self._draw()

    def draw(self) -> None:
        """Draw it as it is now."""
        with self._lock:
            self._draw()

    def close(self) -> None:
        """Draw it a last time, all steps and nothing clipped, and leave it there."""
        self._closed.set()
        if self._ticker.is_alive():
            self._ticker.join()
        with self._lock:
            self._draw(is_last=True)
            self._write("".join(f"{line}\n" for line in _summary(self._warnings)) + _SHOW)

    def _tick(self) -> None:
        while not self._closed.wait(_TICK):
            self.draw()

    def _take_in(self, event: BuildEvent) -> None:
        if event.kind == "warning":
            self._warnings.append(event.text)
            return
        name = f"exporting to image {self._name}".rstrip() if event.kind == "image" else _one_line(event.name)
        job = self._jobs.setdefault((event.dockerfile, name), _Job(name, self._clock()))
        if event.kind == "output":
            *lines, rest = (job.output.pop() + event.text).split("\n")
            job.output = [*(*job.output, *lines)[-_WINDOW:], rest]
        else:
            job.state = "done" if event.kind == "image" else event.kind
            job.seconds = event.seconds

    def _draw(self, *, is_last: bool = False) -> None:
        columns, rows = self._size()
        lines = list(self._lines(columns, is_last=is_last))
        if not is_last and len(lines) > rows - 1:  # what has scrolled out could not be drawn again
            lines = [lines[0], *lines[-(rows - 2) :]] if rows > 2 else lines[:1]
        up = _UP.format(self._drawn) if self._drawn else ""
        self._write(f"{up}\r" + "".join(f"{line}{_TO_LINE_END}\n" for line in lines) + _TO_SCREEN_END)
        self._drawn = len(lines)

    def _lines(self, columns: int, *, is_last: bool) -> Iterator[str]:
        now = self._clock()
        ended = sum(job.state != "start" for job in self._jobs.values())
        finished = " FINISHED" if is_last else ""
        yield _fit(f"[+] Building {now - self._began:.1f}s ({ended}/{len(self._jobs)}){finished}", "", columns)
        for job in self._jobs.values():
            is_running = job.state == "start"
            seconds = now - job.began if is_running else job.seconds
            fit = _in_full if is_last else _fit
            line = fit(f" => {_MARKS.get(job.state, '')}{job.name}", f"{seconds:.1f}s", columns)
            colour = _COLOURS.get(job.state) if self._colour else None
            yield f"\x1b[{colour}m{line}\x1b[0m" if colour else line
            if is_running and not is_last:
                shown = [_last_state(text) for text in job.output if text]
                yield from (_fit(f" => => # {_printable(text)}", "", columns) for text in shown[-_WINDOW:])


def in_words(note: Callable[[str], object]) -> Callable[[TransferEvent], None]:
    """The progress of a pull as text: ``note`` gets a line for each new state of a layer, else an empty text."""
    states: dict[str, str] = {}

    def tell(event: TransferEvent) -> None:
        if states.get(event.layer) == event.status:
            note("")
            return
        states[event.layer] = event.status
        size = f" {event.total / 1e6:.1f}MB" if event.total else ""
        note(f"{event.layer}: {event.status}{size}\n" if event.layer else f"{event.status}\n")

    return tell


def _summary(warnings: Iterable[str]) -> list[str]:
    """What Docker's client says of warnings when a build is over."""
    found = list(warnings)
    return ["", f" {len(found)} warning{'s' * (len(found) > 1)} found:", *(f" - {text}" for text in found)] * bool(
        found
    )


def _fit(text: str, right: str, columns: int) -> str:
    """One line of the terminal: ``text``, clipped where it is too long to be drawn again, and ``right`` at its end."""
    room = max(columns - len(right) - 1, 0)
    shown, width = "", 0
    for char in text:
        wide = _width(char)
        if width + wide > room:
            break
        shown, width = shown + char, width + wide
    return f"{shown}{' ' * (room - width)} {right}" if right else shown


def _in_full(text: str, right: str, columns: int) -> str:
    """``text`` and ``right``, on as many lines of the terminal as it takes."""
    width = sum(map(_width, text))
    return f"{text}{' ' * (columns - len(right) - 1 - width)} {right}"


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _printable(text: str) -> str:
    """Without what would move the cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _last_state(line: str) -> str:
    r"""What a terminal would show of a line in the end: a progress bar rewrites it after each ``\r``."""
    return line.rstrip("\r").rpartition("\r")[2]
