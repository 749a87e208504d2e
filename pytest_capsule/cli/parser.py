"""How the command line is read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_capsule.cli.invocation import Invocation

    Command = Callable[[Invocation], int]


class Commands:
    """The commands, as they are told to the parser."""

    def __init__(self, subparsers: argparse._SubParsersAction[Parser]) -> None:
        self._subparsers = subparsers

    def add(
        self,
        name: str,
        function: Command,
        help: str,
        *,
        error_code: int = 1,
        usage_code: int = 2,
        usage: str | None = None,
        description: str | None = None,
        short_help: bool = True,
        words_after: str | None = None,
    ) -> argparse.ArgumentParser:
        """One more command.

        ``error_code`` is what it exits with on a ``CapsuleError`` and ``usage_code`` on options that cannot be read;
        with no ``short_help``, ``-h`` is free for an option of its own, as in ``docker run``. All words after the first
        positional argument go to ``words_after``.
        """
        parser = self._subparsers.add_parser(
            name,
            prog=f"capsule {name}",
            help=help,
            usage=usage,
            description=description or f"{help[0].upper()}{help[1:]}.",
            allow_abbrev=False,
            add_help=False,
        )
        parser.usage_code = usage_code
        parser.words_after = words_after
        parser.add_argument(*(["-h"] if short_help else []), "--help", action="help", help="show this help and exit")
        parser.set_defaults(function=function, error_code=error_code)
        return parser


class Parser(argparse.ArgumentParser):
    """``argparse``'s, but for what it does otherwise than Docker's client."""

    usage_code = 2
    words_after: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Give ``words_after`` all that follows the first word which is no option, as it stands: argparse would look
        for options in it and drop a ``--``.
        """
        if self.words_after is None:
            found, unknown = super().parse_known_args(args, namespace)
        else:
            end = self._first_word(args) + 1
            found, unknown = super().parse_known_args(args[:end], namespace)
            setattr(found, self.words_after, args[end:])
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _first_word(self, args: Sequence[str]) -> int:
        position = 0
        while position < len(args) and args[position].startswith("-") and args[position] != "-":
            if args[position] == "--":
                return position + 1
            position += 2 if self._takes_next(args[position]) else 1
        return position

    def _takes_next(self, option: str) -> bool:
        """Whether the value of ``option`` (or of the last one in a ``-it``) is the next argument."""
        table = self._option_string_actions
        if option.startswith("--"):
            return option in table and table[option].nargs != 0
        for place, letter in enumerate(option[1:], 2):
            action = table.get(f"-{letter}")
            if action is None or action.nargs != 0:
                return action is not None and place == len(option)
        return False

    def error(self, message: str) -> NoReturn:
        """Docker's manner: one line that says what is wrong, one that says where to read more."""
        print(f"{self.prog}: {message}\nSee '{self.prog} --help'.", file=sys.stderr)
        sys.exit(self.usage_code)
