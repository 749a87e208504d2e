"""``capsule pull`` and ``push``, and how they look while they go on."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from pytest_capsule.cli.table import size
from pytest_capsule.oci.reference import Reference

if TYPE_CHECKING:
    from typing import TextIO

    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands
    from pytest_capsule.distribution import TransferEvent

_BAR = 50
_REDRAWN_EVERY = 0.1


def add_commands(commands: Commands) -> None:
    """Tell the parser of them."""
    parser = commands.add("pull", pull, "fetch an image from a registry")
    parser.add_argument("image", metavar="NAME[:TAG|@DIGEST]")
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="what the image is to be for (default: this machine)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the image's full name")

    parser = commands.add("push", push, "bring an image to a registry")
    parser.add_argument("image", metavar="NAME[:TAG]")
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the image's full name")


def pull(call: Invocation) -> int:
    """Fetch an image, say what happens in Docker's words, and name it in full at the end."""
    options = call.options
    reference = Reference.parse(options.image)
    if reference.digest is None and ":" not in options.image.rpartition("/")[2] and not options.quiet:
        print(f"Using default tag: {reference.tag}")
    with call.engine() as engine:
        progress = None if options.quiet else TransferProgress(sys.stdout)
        engine.pull(options.image, platform=options.platform, progress=progress)
    print(reference)
    return 0


def push(call: Invocation) -> int:
    """Bring an image to the registry that its name says."""
    options = call.options
    reference = Reference.parse(options.image)
    with call.engine() as engine:
        engine.push(options.image, progress=None if options.quiet else TransferProgress(sys.stdout))
    if options.quiet:
        print(reference)
    return 0


class TransferProgress:
    """Shows ``TransferEvent`` values on a stream: a line for each layer, drawn anew on a terminal.

    Elsewhere each new status is one line, and bytes are not counted. Source: moby, ``pkg/jsonmessage``.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None where the caller has closed it
        self._is_terminal = stream is not None and stream.isatty()
        self._lines: dict[str, int] = {}
        self._drawn: dict[str, tuple[str, float]] = {}

    def __call__(self, event: TransferEvent) -> None:
        """Show one event."""
        text = f"{event.layer}: {event.status}" if event.layer else event.status
        if not self._is_terminal:
            if not event.total:
                print(text, file=self._stream, flush=True)
        elif not event.layer:
            print(text, file=self._stream, flush=True)
            self._lines = {layer: above + 1 for layer, above in self._lines.items()}
        elif self._is_due(event):
            self._draw(event.layer, f"{text}{_bar(event) if event.total else ''}")

    def _is_due(self, event: TransferEvent) -> bool:
        """Whether a layer's line is worth drawing: its status is another, or some time has passed."""
        status, when = self._drawn.get(event.layer, ("", 0.0))
        now = time.monotonic()
        if status == event.status and now - when < _REDRAWN_EVERY and event.done < event.total:
            return False
        self._drawn[event.layer] = event.status, now
        return True

    def _draw(self, layer: str, text: str) -> None:
        """Write a layer's line where it is: so many lines above the cursor."""
        above = self._lines.get(layer)
        if above is None:
            print(text, file=self._stream, flush=True)
            self._lines = {other: lines + 1 for other, lines in self._lines.items()} | {layer: 1}
        else:
            print(f"\x1b[{above}A\x1b[2K\r{text}\x1b[{above}B\r", end="", file=self._stream, flush=True)


def _bar(event: TransferEvent) -> str:
    filled = min(_BAR, _BAR * event.done // event.total)
    head = "=" * filled + (">" if filled < _BAR else "")
    return f" [{head:<{_BAR}}] {size(event.done)}/{size(event.total)}"
