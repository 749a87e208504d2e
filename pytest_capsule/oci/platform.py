"""Platforms: what an image was built for, what a host can run, and which of several fits best."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from pytest_capsule.errors import UsageError

# What uname and people call an architecture that Go names otherwise, with the variant that the word implies
# (containerd/platforms, database.go).
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    # A 32-bit process on a 64-bit ARM kernel sees this machine name.
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}

# The two spellings of one variant, and which of them is the canonical one.
_CANONICAL_VARIANT = {("amd64", "v1"): "", ("arm64", "v8"): "", ("arm64", "8"): "", ("arm", ""): "v7"}

_SYSTEMS = frozenset({"darwin", "freebsd", "linux", "macos", "netbsd", "openbsd", "solaris", "windows"})
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"}
)
_PART = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, a CPU architecture in Go's words and a variant of it ("" where there is none to tell).

    ``os_version`` and ``os_features`` stand in indexes of Windows images only; they are kept and not compared.
    Source: OCI image-spec, image-index.md.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, host: Platform | None = None) -> Platform:
        """Read "os/architecture[/variant]" and return the canonical form: "linux/aarch64/v8" is linux/arm64.

        One word alone ("arm64", "linux") takes the other part from ``host``. Raises ``UsageError``.
        """
        parts = text.split("/")
        if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(
                f"{text!r} is no platform", hint="write os/architecture, as in linux/amd64 or linux/arm/v7"
            )
        if len(parts) > 1:
            system, architecture, *variant = parts
            return cls(system, architecture, "".join(variant)).normalized()
        if host is None:
            raise UsageError(f"{text!r} is half a platform", hint=f"write linux/{text} or {text}/amd64 in full")
        word = parts[0].lower()
        if word in _SYSTEMS:
            return replace(host, os=word).normalized()
        found = cls(host.os, word).normalized()
        if found.architecture not in _ARCHITECTURES:
            raise UsageError(f"{text!r} is neither an operating system nor an architecture that is known")
        return found

    @classmethod
    def host(cls, machine: str) -> Platform:
        """The platform of a Linux host whose ``uname -m`` says ``machine``."""
        return cls("linux", machine).normalized()

    @classmethod
    def here(cls) -> Platform:
        """The platform of this host."""
        return cls.host(os.uname().machine)

    @classmethod
    def named(cls, text: str | None) -> Platform:
        """The one that ``text`` names on this host, as ``parse`` reads it; without a text this host's own."""
        return cls.here() if text is None else cls.parse(text, host=cls.here())

    def normalized(self) -> Platform:
        """The same platform in canonical words (containerd's ``Normalize``); an image without an OS is for Linux."""
        architecture, variant = self.architecture.lower(), self.variant.lower()
        if architecture in _ALIASES:
            architecture, implied = _ALIASES[architecture]
            variant = implied or variant
        if architecture == "arm" and variant in ("5", "6", "7", "8"):
            variant = f"v{variant}"
        if architecture == "386":
            variant = ""
        variant = _CANONICAL_VARIANT.get((architecture, variant), variant)
        system = self.os.lower() or "linux"
        return replace(self, os="darwin" if system == "macos" else system, architecture=architecture, variant=variant)

    def compatible(self) -> tuple[Platform, ...]:
        """The platforms whose programs run here, the best first: arm/v7 runs arm/v7, arm/v6, arm/v5.

        Source: containerd/platforms, compare.go ("Only").
        """
        own = self.normalized()
        pairs = _runnable(own.architecture, own.variant)
        found = (
            replace(own, architecture=architecture, variant=variant).normalized() for architecture, variant in pairs
        )
        return tuple(dict.fromkeys((own, *found)))

    def rank(self, candidate: Platform) -> int | None:
        """How well ``candidate`` fits here: 0 is the very same, more is worse, ``None`` does not run."""
        wanted = candidate.normalized()
        key = (wanted.os, wanted.architecture, wanted.variant)
        for position, platform in enumerate(self.compatible()):
            if (platform.os, platform.architecture, platform.variant) == key:
                return position
        return None

    def runs(self, candidate: Platform) -> bool:
        """Whether this host can run what was built for ``candidate``."""
        return self.rank(candidate) is not None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _runnable(architecture: str, variant: str) -> list[tuple[str, str]]:
    """The architectures with variants that run on a CPU, after the CPU's own, in falling order."""
    if architecture == "amd64":
        return [*_versions_below("amd64", variant, lowest=1), ("386", "")]
    if architecture == "arm":
        return _versions_below("arm", variant, lowest=5)
    if architecture == "arm64":
        return [*_arm64_below(variant), ("arm", "v8"), *_versions_below("arm", "v8", lowest=5)]
    return []


def _versions_below(architecture: str, variant: str, *, lowest: int) -> list[tuple[str, str]]:
    number = re.fullmatch(r"v(\d+)", variant)
    top = int(number[1]) if number else lowest
    return [(architecture, f"v{version}") for version in range(min(top, 99) - 1, lowest - 1, -1)]


def _arm64_below(variant: str) -> list[tuple[str, str]]:
    number = re.fullmatch(r"v([89])(?:\.(\d))?", variant or "v8")
    if number is None:
        return []
    major, minor = int(number[1]), int(number[2] or 0)
    below: list[tuple[str, str]] = []
    if major == 9:
        below += [("arm64", f"v9.{step}" if step else "v9") for step in range(minor - 1, -1, -1)]
        # v9.0 has what v8.5 has, so v9.x runs v8.(x+5) and all below it.
        minor += 6
    return below + [("arm64", f"v8.{step}" if step else "v8") for step in range(minor - 1, -1, -1)]
