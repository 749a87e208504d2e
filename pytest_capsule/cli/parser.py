"""How the command line is read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_capsule.cli.invocation import Invocation

    Command = Callable[[Invocation], int]


_WRONG_OPTION, _WRONG_ARGUMENTS = 125, 1  # docker/cli, cli/cobra.go and cli/required.go


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
        usage: str | None = None,
        description: str | None = None,
        short_help: bool = True,
        words_after: str | None = None,
    ) -> argparse.ArgumentParser:
        """One more command.

        ``error_code`` is what it exits with on a ``CapsuleError``; with no ``short_help``, ``-h`` is free for an option
        of its own, as in ``docker run``. All words after the first positional argument go to ``words_after``.
        """
        parser = self._subparsers.add_parser(
            name,
            prog=f"capsule {name}",
            help=help,
            usage=usage,
            description=description or f"{help[0].upper()}{help[1:]}.",
            allow_abbrev=False,
            add_help=False,
            exit_on_error=False,
        )
        parser.words_after = words_after
        parser.add_argument(*(["-h"] if short_help else []), "--help", action="help", help="show this help and exit")
        parser.set_defaults(function=function, error_code=error_code)
        return parser


class Parser(argparse.ArgumentParser):
    """``argparse``'s, but for what it does otherwise than Docker's client."""

    words_after: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Give ``words_after`` all that follows the first word which is no option, as it stands: argparse would look
        for options in it and drop a ``--``.
        """
        try:
            if self.words_after is None:
                found, unknown = super().parse_known_args(args, namespace)
            else:
                end = self._first_word(args) + 1
                found, unknown = super().parse_known_args(args[:end], namespace)
                setattr(found, self.words_after, args[end:])
        except argparse.ArgumentError as error:
            self._refuse(str(error), is_option=(error.argument_name or "").startswith("-"))
        if unknown:
            is_option = any(word.startswith("-") for word in unknown)
            self._refuse(f"unrecognized arguments: {' '.join(unknown)}", is_option=is_option)
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
        """What ``argparse`` says of arguments that are not there."""
        self._refuse(message, is_option=False)

    def _refuse(self, message: str, *, is_option: bool) -> NoReturn:
        """Docker's manner: one line that says what is wrong, one that says where to read more; and its exit codes."""
        print(f"{self.prog}: {message}\nSee '{self.prog} --help'.", file=sys.stderr)
        sys.exit(_WRONG_OPTION if is_option else _WRONG_ARGUMENTS)
