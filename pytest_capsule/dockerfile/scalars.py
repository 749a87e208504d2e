"""The small values inside instructions, as Go and Docker write them: durations, sizes, booleans, ports, signals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pytest_capsule.dockerfile.text import quote
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable

_INT64_MAX: Final = 2**63 - 1
_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_SIZE: Final = re.compile(r"(.*[0-9.]) ?([a-z]*)", re.DOTALL)
_FLOAT: Final = re.compile(r"\+?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_SIZE_UNITS: Final = "kmgtp"
_SIGNALS: Final = frozenset((
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
    "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP",
    "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
))  # fmt: skip
_REALTIME_SIGNAL: Final = re.compile(r"RTMIN\+([1-9]|1[0-5])|RTMAX-([1-9]|1[0-4])")
_DIGITS: Final = re.compile(r"[0-9]+")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")


def parse_duration(text: str) -> int:
    """Read a duration as Go's ``time.ParseDuration`` does (``1m30s``, ``100ms``, ``0``); give nanoseconds."""
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total = 0
    at = 0
    if not rest:
        raise _bad_duration(text)
    while at < len(rest):
        part = _DURATION_PART.match(rest, at)
        if part is None or not (part[1] or part[2]):
            raise _bad_duration(text)
        total += _duration_part(text, part[1], part[2] or "", part[3])
        at = part.end()
    if total > _INT64_MAX + negative:
        raise _bad_duration(text)
    return -total if negative else total


def _duration_part(text: str, whole: str, fraction: str, unit: str) -> int:
    if not unit:
        raise DockerfileError(f"time: missing unit in duration {quote(text)}", hint="write it with a unit, as in 30s")
    if unit not in _UNITS:
        raise DockerfileError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
    if len(whole) > 19:
        raise _bad_duration(text)
    scale = _UNITS[unit]
    fraction = fraction[:19]
    if fraction and int(fraction) > _INT64_MAX:  # Go drops the digits that 64 bits do not hold
        fraction = fraction[:18]
    # The float arithmetic is Go's: 1.5s must give the same count of nanoseconds here and there.
    return int(whole or 0) * scale + (int(int(fraction) * (scale / 10 ** len(fraction))) if fraction else 0)


def _bad_duration(text: str) -> DockerfileError:
    return DockerfileError(f"time: invalid duration {quote(text)}", hint="as in 30s, 1m30s or 100ms")


def parse_bool(key: str, text: str) -> bool:
    """Read a boolean as Go's ``strconv.ParseBool`` does."""
    if text not in _BOOLEANS:
        raise DockerfileError(f"invalid value for {key}: {text}", hint="true or false")
    return _BOOLEANS[text]


def parse_unsigned(key: str, text: str, *, base: int = 10) -> int:
    """Read a number of 32 bits without a sign."""
    try:
        number = int(text, base) if len(text) < 40 and _DIGITS.fullmatch(text) else -1
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise DockerfileError(f"invalid value {text} for {key}")
    return number


def parse_int32(text: str) -> int:
    """Read a number of 32 bits as Go's ``strconv.ParseInt`` does."""
    if not _INTEGER.fullmatch(text):
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    number = int(text)
    if not -(2**31) <= number < 2**31:
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return number


def parse_size(key: str, text: str) -> int:
    """Read a size in bytes, as docker's ``go-units`` does: ``64m``, ``1.5GiB``, ``4096``."""
    match = _SIZE.fullmatch(text.lower()) if len(text) < 64 else None
    if match and _FLOAT.fullmatch(match[1]):
        unit = match[2]
        if unit in ("", "b"):
            return int(float(match[1]))
        if unit[0] in _SIZE_UNITS and unit[1:] in ("", "b", "ib"):
            return int(float(match[1]) * 1024 ** (_SIZE_UNITS.index(unit[0]) + 1))
    raise DockerfileError(f"invalid value for {key}: {text}", hint="as in 64m or 1g")


def parse_csv(text: str) -> list[str]:
    """Cut one CSV record into its fields; a field in double quotes may hold commas and doubled quotes."""
    if not text:
        raise DockerfileError("EOF")
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            field, at = _quoted_field(text, at + 1)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            field, at = text[at:end], end
            if '"' in field:
                raise DockerfileError('bare " in non-quoted field')
        fields.append(field)
        if at == len(text):
            return fields
        at += 1


def _quoted_field(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise DockerfileError('extraneous or missing " in quoted-field')
        parts.append(text[at:end])
        at = end + 1
        if text.startswith('"', at):
            parts.append('"')
            at += 1
        elif at == len(text) or text[at] == ",":
            return "".join(parts), at
        else:
            raise DockerfileError('extraneous or missing " in quoted-field')


def check_signal(text: str) -> None:
    """Refuse what Docker does not know as a signal. Numbers are good, names in any case, with or without ``SIG``."""
    if _INTEGER.fullmatch(text):
        known = int(text) != 0
    else:
        name = text.upper().removeprefix("SIG")
        known = name in _SIGNALS or bool(_REALTIME_SIGNAL.fullmatch(name))
    if not known:
        raise DockerfileError(f"Invalid signal: {text}", hint="a name or a number, as in SIGTERM or 15")


def parse_ports(specs: Iterable[str]) -> tuple[str, ...]:
    """Read what ``EXPOSE`` names (``80``, ``53/udp``, ``8000-8002``, ``[ip:]host:container``) as ``port/protocol``."""
    return tuple(port for spec in specs for port in _ports(spec))


def _ports(spec: str) -> list[str]:
    *address, host, container = ["", "", *spec.split(":")][-max(3, spec.count(":") + 1) :]
    port, _, protocol = container.partition("/")
    if not port:
        raise DockerfileError(f"no port specified: {container}<empty>")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise DockerfileError(f"invalid proto: {protocol}")
    _check_address(":".join(address))
    ports = _port_range("containerPort", port)
    if host:
        hosts = _port_range("hostPort", host)
        if len(ports) not in (1, len(hosts)):
            raise DockerfileError(f"invalid ranges specified for container and host Ports: {port} and {host}")
    return [f"{number}/{protocol}" for number in ports]


def _check_address(text: str) -> None:
    if not text:
        return
    import ipaddress  # an address in EXPOSE is rare, and this import is not cheap

    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise DockerfileError(f"invalid IP address: {text}") from None


def _port_range(what: str, text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if not all(len(number) < 10 and _DIGITS.fullmatch(number) for number in numbers):
        raise DockerfileError(f"invalid {what}: {text}")
    start, end = map(int, numbers)
    if not start <= end <= 65535:
        raise DockerfileError(f"invalid {what}: {text}")
    return range(start, end + 1)
