"""How Docker's client prints things: columns, sizes and ages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_capsule.store.image import moment

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence

_PADDING = 3
_NARROWEST = 10
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a header, in columns as wide as their widest cell. Source: docker/cli, ``formatter.TableFormat``.

    What an image says of itself may be anything: what a terminal would obey becomes a space.
    """
    lines = [header, *([*map(_printable, row)] for row in rows)]
    widths = [max(_NARROWEST, *(len(line[i]) + _PADDING for line in lines)) for i in range(len(header) - 1)]
    return "\n".join("".join(map(str.ljust, line, widths)) + line[-1] for line in lines)


def _printable(cell: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in cell)


def size(count: int) -> str:
    """Bytes as Docker writes them: three digits and a decimal unit. Source: docker/go-units, ``HumanSize``."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError


def age(text: str, now: datetime.datetime) -> str:
    """How long ago an image was made: ``2 hours ago``. Source: docker/go-units, ``HumanDuration``."""
    made = moment(text)
    return "N/A" if made is None else f"{_duration((now - made).total_seconds())} ago"


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for limit, length, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < limit:
            return f"{days // length} {unit}"
    return f"{int(seconds / 3600) // 24 // 365} years"
