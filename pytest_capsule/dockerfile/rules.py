"""BuildKit's build checks: their names, what they say in general, and how a Dockerfile turns them on and off.

Source: ``frontend/dockerfile/linter`` of moby/buildkit (``ruleset.go``, ``linter.go``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_capsule.dockerfile.text import quote
from pytest_capsule.errors import DockerfileError

DESCRIPTIONS: Final = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
    ),
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
    ),
    "MaintainerDeprecated": ("The MAINTAINER instruction is deprecated, use a label instead to define an image author"),
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
        "base image changes"
    ),
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
        "not intended to be a description comment, add an empty line or comment between the instruction and the "
        "comment."
    ),
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
        "future release"
    ),
}
EXPERIMENTAL: Final = frozenset({"InvalidDefinitionDescription"})
_WORDS: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]*|[A-Z]+")
_TRUE: Final = ("1", "t", "T", "TRUE", "true", "True")
_FALSE: Final = ("0", "f", "F", "FALSE", "false", "False")


@dataclass(frozen=True, slots=True)
class LintWarning:
    """What a check has found: ``rule`` is its name, ``line`` where, ``message`` what, in BuildKit's words."""

    rule: str
    line: int
    message: str

    @property
    def description(self) -> str:
        """What the check says in general."""
        return DESCRIPTIONS[self.rule]

    @property
    def url(self) -> str:
        """The page about the check in Docker's documentation."""
        words = "-".join(word.lower() for word in _WORDS.findall(self.rule))
        return f"https://docs.docker.com/go/dockerfile/rule/{words}/"

    def __str__(self) -> str:
        return f"{self.rule}: {self.message} (line {self.line})"


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Which checks are made: the value of a ``# check=`` directive.

    ``skip`` and ``experimental`` are names of checks, or ``all``; ``error`` makes warnings fail the build.
    """

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """Read ``skip=A,B;experimental=C;error=true``; raise ``DockerfileError``, without a line."""
        skip: frozenset[str] = frozenset()
        experimental: frozenset[str] = frozenset()
        error = False
        for part in text.strip().split(";", 2) if text.strip() else ():
            key, equals, value = part.partition("=")
            key, value = key.strip(), value.strip()
            names = frozenset(name.strip() for name in value.split(","))
            if not equals or key not in ("skip", "experimental", "error"):
                shown = key if equals else part
                raise DockerfileError(
                    f"invalid check option {quote(shown)}", hint="write skip=RULE,RULE;experimental=RULE;error=true"
                )
            if key == "skip":
                skip = names
            elif key == "experimental":
                experimental = names
            elif value in (*_TRUE, *_FALSE):
                error = value in _TRUE
            else:
                raise DockerfileError(f"failed to parse check option {quote(part)}", hint="error is true or false")
        return cls(skip, experimental, error)

    def makes(self, rule: str) -> bool:
        """Whether the check ``rule`` is made."""
        if rule in EXPERIMENTAL:
            return not self.experimental.isdisjoint((rule, "all"))
        return self.skip.isdisjoint((rule, "all"))

    def merged(self, other: CheckOptions) -> CheckOptions:
        """These options with what ``other`` skips and turns on besides."""
        return CheckOptions(self.skip | other.skip, self.experimental | other.experimental, self.error)
