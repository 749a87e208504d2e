"""The ``capsule`` command: Docker's words for what the engine does.

One module a group of commands; each has ``add_commands``, which tells the parser of them, and every command is a
function that takes an ``Invocation`` and returns its exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_capsule.cli.invocation import Invocation
from pytest_capsule.cli.parser import Commands, Parser
from pytest_capsule.errors import CapsuleError, CapsuleWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType


_DESCRIPTION = "Build images from Dockerfiles and run them, with no Docker, no daemon and no root."
_EPILOG = """\
examples:
  capsule build -t app .                  build ./Dockerfile
  capsule run --rm -it capsule/host bash  a shell on a copy-on-write view of this machine
  capsule check                           what this host can do, and how to mend what it cannot

The same images and containers are there for pytest: see the marker `container` in pytest --markers.
"""


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
        with _ended_by_signals(), _warnings_as_messages():
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


@contextlib.contextmanager
def _warnings_as_messages() -> Iterator[None]:
    """What a user should know of is a line of ours, without the place in our code."""
    format_others = warnings.formatwarning

    def format_one(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        ours = issubclass(category, CapsuleWarning)
        return f"capsule: warning: {message}\n" if ours else format_others(message, category, *place, **line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", CapsuleWarning)
        warnings.formatwarning = format_one
        try:
            yield
        finally:
            warnings.formatwarning = format_others


class _Version(argparse.Action):
    """Found out only when asked for: it costs an import of all installed packages' records."""

    def __call__(self, *_: object, **__: object) -> NoReturn:
        import importlib.metadata

        print(f"capsule version {importlib.metadata.version('pytest-capsule')}")
        sys.exit(0)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``capsule`` with all of its commands."""
    from pytest_capsule.cli import archives, build, host, images, registry, run  # not before somebody asks

    parser = Parser(
        prog="capsule",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="capsule [--cache-dir DIR] COMMAND ...",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--version", nargs=0, action=_Version, help="print the version and exit")
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where images and layers are kept (default: $CAPSULE_CACHE_DIR, else pytest-capsule in $XDG_CACHE_HOME)",
    )
    parser.set_defaults(function=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    commands = Commands(subparsers)
    for module in (build, run, images, registry, archives, host):
        module.add_commands(commands)
    return parser
