"""The words of ``--chmod``: an octal number, or what chmod(1) takes (``u=rwX,go=rX``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_capsule.errors import DockerfileError

_CLAUSE: Final = re.compile(r"(?P<who>[augo]*)(?P<changes>(?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_WHO: Final = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_PERMISSIONS: Final = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_ANY_EXECUTE: Final = 0o111


@dataclass(frozen=True, slots=True)
class Mode:
    """What becomes of a file's mode. Source: ``tonistiigi/dchapes-mode``; buildkitd's umask is 0."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Mode:
        """Check the words; ``DockerfileError`` for what chmod would not take."""
        is_octal = re.fullmatch("[0-7]+", text) and int(text, 8) <= 0o7777
        if not is_octal and not all(_CLAUSE.fullmatch(clause) for clause in text.split(",")):
            raise DockerfileError(
                f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
                hint="for instance --chmod=755, or in the words of chmod --chmod=u=rwX,go=rX",
            )
        return cls(text)

    def applied(self, mode: int, *, directory: bool) -> int:
        """The mode that a file with ``mode`` gets."""
        if self.text.isdecimal():
            return int(self.text, 8)
        executable = directory or bool(mode & _ANY_EXECUTE)
        for clause in self.text.split(","):
            who, changes = _CLAUSE.fullmatch(clause).groups()  # type: ignore[union-attr]  # parse has seen to it
            mask = sum({_WHO[one] for one in who if one != "a"}) if who and "a" not in who else _WHO["a"]
            for operator, permissions in _CHANGE.findall(changes):
                mode = _changed(mode, operator, permissions, mask, executable=executable)
        return mode


def _changed(mode: int, operator: str, permissions: str, mask: int, *, executable: bool) -> int:
    if permissions in _SHIFTS:
        bits = (mode >> _SHIFTS[permissions] & 0o7) * _ANY_EXECUTE
    else:
        known = [_PERMISSIONS[one] for one in permissions if one != "X"]
        if "X" in permissions and operator != "-" and executable:
            known.append(_ANY_EXECUTE)
        bits = 0
        for one in known:
            bits |= one
    if bits & _PERMISSIONS["t"] and mask != _WHO["o"]:
        mask |= _PERMISSIONS["t"]
    if operator == "-":
        return mode & ~(bits & mask)
    kept = mode & ~mask if operator == "=" else mode
    return kept | (bits & mask)
