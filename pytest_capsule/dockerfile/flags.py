"""The flags of an instruction: ``--name``, ``--name=value``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_capsule.dockerfile.text import did_you_mean
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that were given, by name: texts once, lists in order, switches as ``True`` or ``False``."""

    texts: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)


def parse_flags(
    given: Iterable[str], *, texts: Iterable[str] = (), lists: Iterable[str] = (), switches: Iterable[str] = ()
) -> Flags:
    """Read ``given`` as flags of the three kinds that an instruction knows; raise ``DockerfileError`` on any other."""
    found = Flags()
    for flag in given:
        name, equals, value = flag.removeprefix("--").partition("=")
        if name in found.texts or name in found.switches:
            raise DockerfileError(f"duplicate flag specified: --{name}")
        if name in switches:
            found.switches[name] = _switch(name, equals, value)
            continue
        if name not in texts and name not in lists:
            raise _unknown(name, (*texts, *lists, *switches))
        if not equals:
            raise DockerfileError(f"missing a value on flag: --{name}", hint=f"write --{name}=VALUE")
        if name in lists:
            found.lists.setdefault(name, []).append(value)
        else:
            found.texts[name] = value
    return found


def _switch(name: str, equals: str, value: str) -> bool:
    if equals and not value:
        raise DockerfileError(f"missing a value on flag: --{name}", hint=f"write --{name} or --{name}=false")
    if value.lower() not in ("", "true", "false"):
        raise DockerfileError(f"expecting boolean value for flag --{name}, not: {value}")
    return value.lower() != "false"


def _unknown(name: str, known: tuple[str, ...]) -> DockerfileError:
    hint = did_you_mean(f"--{name}", [f"--{one}" for one in known])
    if hint is None:
        names = ", ".join(f"--{one}" for one in sorted(known))
        hint = f"known here: {names}" if known else "this instruction takes no flags"
    return DockerfileError(f"unknown flag: --{name}", hint=hint)
