"""How the images that are made ready before the first test look on pytest's terminal.

What is there already is not mentioned. ``-q`` shows nothing, a terminal one line that changes, anything else (a CI) a
line when a build begins and when it ends, and ``-v`` every step.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_capsule.progress import PlainProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_capsule.build.events import BuildEvent

    Write = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of what was done for an image: how long it took, and why it failed, if it did."""

    seconds: float
    failure: Exception | None = None


class Silent:
    """Nothing is shown: the base of those that do."""

    def begin(self, images: int) -> None:
        """So many images are looked after."""

    def event(self, name: str, event: BuildEvent) -> None:
        """Something happened in the build of an image."""

    def finished(self, name: str, end: Finished) -> None:
        """An image is there, or has failed."""

    def tick(self) -> None:
        """A moment has passed."""

    def end(self) -> None:
        """The first test begins."""


class Lines(Silent):
    """A line when a build begins, and one when it ends."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._steps: dict[str, dict[str, int]] = {}

    def event(self, name: str, event: BuildEvent) -> None:
        """Show that a step had to be carried out, if it is the first."""
        if event.step == 0:  # the build's own, not the Dockerfile's
            return
        steps = self._steps.setdefault(name, {})
        steps[event.kind] = steps.get(event.kind, 0) + 1
        if event.kind == "start" and steps["start"] == 1:
            self.building(name)

    def building(self, name: str) -> None:
        """Not everything of an image was there already."""
        self._write(f"capsule: building {name}\n")

    def finished(self, name: str, end: Finished) -> None:
        """Show what was built, and what has failed."""
        steps = self._steps.get(name, {})
        if end.failure is not None:
            self._write(f"capsule: {name} failed after {end.seconds:.1f} s; the tests that need it say why\n")
        elif built := steps.get("done", 0):
            self._write(
                f"capsule: built {name} in {end.seconds:.1f} s: "
                f"{built} {'step' if built == 1 else 'steps'}, {steps.get('cached', 0)} from the cache\n"
            )


class Live(Lines):
    """One line for what goes on, rewritten as it changes; above it what is done."""

    def __init__(self, write: Write, width: Callable[[], int]) -> None:
        super().__init__(self._write_above)
        self._write_through = write
        self._width = width
        self._began = time.monotonic()
        self._images = self._done = 0
        self._current: dict[str, str] = {}
        self._shown = ""

    def begin(self, images: int) -> None:
        """So many images are looked after."""
        self._images = images

    def building(self, name: str) -> None:
        """The line that changes says so."""

    def event(self, name: str, event: BuildEvent) -> None:
        """Show the step that goes on."""
        super().event(name, event)
        if event.kind == "start" and event.step:
            self._current[name] = " ".join(event.name.split())
            self.tick()

    def finished(self, name: str, end: Finished) -> None:
        """Show it above."""
        self._done += 1
        self._current.pop(name, None)
        super().finished(name, end)
        self.tick()

    def tick(self) -> None:
        """Show how long it has taken until now."""
        if self._current:
            steps = ", ".join(f"{name} {step}" for name, step in self._current.items())
            line = f"capsule: {self._done}/{self._images} images, {time.monotonic() - self._began:.0f} s: {steps}"
            self._rewrite(line[: self._width() - 1])
        else:
            self.end()

    def end(self) -> None:
        """Take the line away."""
        self._rewrite("")

    def _rewrite(self, line: str) -> None:
        if line != self._shown:
            self._write_through("\r" + line.ljust(len(self._shown)) + ("" if line else "\r"))
            self._shown = line

    def _write_above(self, text: str) -> None:
        self.end()
        self._write_through(text)


class Steps(Silent):
    """Every step and what it prints, each line with the name of its image."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._images: dict[str, PlainProgress] = {}

    def event(self, name: str, event: BuildEvent) -> None:
        """Show it as ``docker build --progress=plain`` does."""
        if name not in self._images:
            self._images[name] = PlainProgress(partial(self._write_lines, name))
        self._images[name](event)

    def finished(self, name: str, end: Finished) -> None:
        """Show what has failed and what was warned of; what was built has said so."""
        if name in self._images:
            self._images.pop(name).close()
        if end.failure is not None:
            self._write_lines(name, f"failed after {end.seconds:.1f} s; the tests that need it say why")

    def _write_lines(self, name: str, text: str) -> None:
        self._write("".join(f"{name} | {line}\n" for line in text.splitlines() if line))


def view_of(config: pytest.Config) -> Silent:
    """The view that fits how pytest was called and where it prints."""
    verbosity = config.option.verbose
    if verbosity < 0:
        return Silent()
    if hasattr(config, "workerinput"):
        return Lines(partial(_write_past_capture, config))
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return Silent()
    write = partial(_write_on, reporter)
    if verbosity > 0:
        return Steps(write)
    if reporter.isatty and not os.environ.get("CI"):
        return Live(write, lambda: reporter._tw.fullwidth)
    return Lines(write)


def _write_on(reporter: pytest.TerminalReporter, text: str) -> None:
    reporter.write(text, flush=True)


def _write_past_capture(config: pytest.Config, text: str) -> None:
    """A worker of xdist has no terminal; what it says on stderr its controller's user sees."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        sys.stderr.write(text)
        sys.stderr.flush()
