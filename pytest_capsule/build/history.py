"""What an image's history says of each instruction, worded as BuildKit words it, so that it reads the same.

Source: ``dockerfile2llb/convert.go`` and ``convert_copy.go``. BuildKit prints with Go's ``fmt``: lists without commas,
durations as ``1m30s``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_capsule.dockerfile import instructions as ins

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COMMENT = "buildkit.dockerfile.v0"
_CARRIED_OUT = " # buildkit"
_SECOND = 10**9
_UNITS = {10**6: "ms", 10**3: "µs", 1: "ns"}


def run(argv: Sequence[str], declared: Mapping[str, str]) -> str:
    """``RUN``, with the build arguments that are in scope: ``RUN |1 VERSION=3 /bin/sh -c make # buildkit``."""
    arguments = [f"|{len(declared)}", *(f"{name}={value}" for name, value in declared.items())] if declared else []
    return " ".join(("RUN", *arguments, *argv)) + _CARRIED_OUT


def transfer(instruction: ins.Transfer) -> str:
    """``COPY`` and ``ADD``; where ``--from`` takes from is not told."""
    words = [instruction.keyword]
    if isinstance(instruction, ins.Copy) and instruction.parents:
        words.append("--parents")
    if instruction.chown:
        words.append(f"--chown={instruction.chown}")
    if instruction.chmod:
        words.append(f"--chmod={instruction.chmod}")
    words += instruction.sources
    words += (f"<<{file.name}" for file in instruction.files)
    return " ".join((*words, instruction.dest)) + _CARRIED_OUT


def arguments(values: Iterable[tuple[str, str | None]]) -> str:
    """``ARG``, with what each name came to."""
    return " ".join(("ARG", *(name if value is None else f"{name}={value}" for name, value in values)))


def pairs(instruction: ins.Env | ins.Label) -> str:
    """``ENV`` and ``LABEL``."""
    return " ".join((instruction.keyword, *(f"{pair.name}={pair.value}" for pair in instruction.pairs)))


def listed(keyword: str, words: Iterable[str]) -> str:
    """``EXPOSE``, ``VOLUME`` and ``SHELL``: Go's ``%v`` of a list."""
    return f"{keyword} [{' '.join(words)}]"


def healthcheck(instruction: ins.Healthcheck) -> str:
    """``HEALTHCHECK``: Go's ``%+v`` of the structure in the image's config."""
    test = " ".join(instruction.test)
    times = {
        "Interval": instruction.interval,
        "Timeout": instruction.timeout,
        "StartPeriod": instruction.start_period,
        "StartInterval": instruction.start_interval,
    }
    shown = " ".join(f"{name}:{duration(time)}" for name, time in times.items())
    return f"HEALTHCHECK {{Test:[{test}] {shown} Retries:{instruction.retries}}}"


def duration(nanoseconds: int) -> str:
    """A time as Go's ``Duration.String`` gives it: ``1m30s``, ``1.5s``, ``100ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < _SECOND:
        scale = next(scale for scale in _UNITS if nanoseconds >= scale)
        return _decimal(nanoseconds, scale) + _UNITS[scale]
    minutes, rest = divmod(nanoseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, _SECOND) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    return f"{whole}.{rest:0{len(str(scale)) - 1}d}".rstrip("0") if rest else str(whole)
