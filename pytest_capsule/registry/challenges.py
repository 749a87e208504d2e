"""What a registry asks for when it answers 401: the header ``WWW-Authenticate``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# RFC 7235, appendix C: a parameter is a token or a quoted string.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*,*\s*({_TOKEN})(?:\s+|(?=,)|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to say who one is: ``scheme`` in lower case ("bearer", "basic"), and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of a response, in order; what cannot be read is left out."""
    return [challenge for header in headers for challenge in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    found = []
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters = {}
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain
            position = parameter.end()
        found.append(Challenge(match[1].lower(), parameters))
    return found
