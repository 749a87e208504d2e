"""The ``capsule`` command: Docker's words for what the engine does.

One module a group of commands; each has ``add_commands``, which tells the parser of them, and every command is a
function that takes an ``Invocation`` and returns its exit code.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from pytest_capsule.cli.invocation import Invocation
from pytest_capsule.cli.parser import make_parser
from pytest_capsule.errors import CapsuleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A user's mistake is a message on stderr, never a traceback."""
    _have_all_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name of a file may be no text, and a terminal may lack a letter
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.function is None:
        parser.print_help()
        return 0
    try:
        with _ended_by_signals():
            code: int = options.function(Invocation(options))
            if sys.stdout is not None:
                sys.stdout.flush()
    except CapsuleError as error:
        print(f"capsule: {error}", file=sys.stderr)
        return int(options.error_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone, as head(1) does. Python would complain again when it flushes at its end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"capsule: {error}", file=sys.stderr)
        return int(options.error_code)
    return code


def _have_all_streams() -> None:
    """Whoever closes one of our streams (``>&-``) means /dev/null, and not what happens to be opened in its place."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest descriptor that is free: this one


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as an exception does: the engine and a terminal in raw mode are put in order."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup(1) wants it so
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
