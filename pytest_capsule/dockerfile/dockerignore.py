"""``.dockerignore``: which paths of a build context are left out.

What counts is what Docker's client does while it walks the context (``fsutil``): each path is asked with the answers
that its directory got. Source: moby/patternmatcher (``MatchesUsingParentResults``, ``ignorefile``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_capsule.dockerfile.patterns import Pattern, clean
from pytest_capsule.dockerfile.text import SPACE, decode
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_LINE: Final = 65535


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say about ``path``. Handed on to ``IgnoreRules.verdict`` for what lies in it, it saves time."""

    path: str
    ignored: bool
    matched: int = 0
    """One bit a pattern: those that matched this path or a directory above it."""


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """Patterns, of which the last that matches decides. Paths are relative to the context, with ``/``."""

    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def parse(cls, source: bytes | str, path: str = ".dockerignore") -> IgnoreRules:
        """Read a file's text; ``path`` is its name in errors. A bad pattern: ``DockerfileError`` with its line."""
        patterns: list[Pattern] = []
        for number, line in enumerate(decode(source).removeprefix("\ufeff").split("\n"), 1):
            line = line.removesuffix("\r")
            try:
                text = _pattern_of(line)
                if text:
                    patterns.append(Pattern.parse(text))
            except DockerfileError as error:
                raise DockerfileError(error.reason, path=path, line=number, text=line, hint=error.hint) from None
        return cls(tuple(patterns))

    @classmethod
    def of(cls, texts: Iterable[str]) -> IgnoreRules:
        """Read patterns that come from no file, as those of ``COPY --exclude``: no comments, ``/a`` is not ``a``."""
        return cls(tuple(Pattern.parse(text.strip(SPACE)) for text in texts if text.strip(SPACE)))

    def ignores(self, path: str) -> bool:
        """Whether ``path`` is left out."""
        return self.verdict(path).ignored

    def verdict(self, path: str, parent: Verdict | None = None) -> Verdict:
        """Judge ``path``; ``parent`` is the verdict on its directory, which is worked out where not given."""
        path = path.rstrip("/")
        if path in ("", "."):
            return Verdict(path, False)
        if parent is None and "/" in path:
            parent = self._of_parents(path)
        above = parent.matched if parent else 0
        ignored = False
        matched = 0
        for index, pattern in enumerate(self.patterns):
            bit = 1 << index
            # A pattern that could change nothing is not tried, and so is not remembered for what lies below. That
            # is moby's way, and shows: of "a/b" and "!a", the latter does not bring a/b back.
            if above & bit or (pattern.is_exception == ignored and pattern.matches(path)):
                matched |= bit
                ignored = not pattern.is_exception
        return Verdict(path, ignored, matched)

    def may_contain_kept(self, directory: str | Verdict) -> bool:
        """Whether a walk must look into ``directory``; if not, all below it is ignored for certain."""
        verdict = self.verdict(directory) if isinstance(directory, str) else directory
        if not verdict.ignored:
            return True
        prefixes = [pattern.prefix for pattern in self.patterns if pattern.is_exception]
        return any(prefix is None or f"{prefix}/".startswith(f"{verdict.path}/") for prefix in prefixes)

    def _of_parents(self, path: str) -> Verdict | None:
        verdict = None
        at = path.find("/")
        while at >= 0:
            verdict = self.verdict(path[:at], verdict or Verdict("", False))
            at = path.find("/", at + 1)
        return verdict


def _pattern_of(line: str) -> str:
    """The pattern that a line of the file holds, cleaned and without its leading slash; empty if it holds none."""
    if len(line.encode("utf-8", "surrogatepass")) > _LONGEST_LINE:
        raise DockerfileError("error reading ignore file: bufio.Scanner: token too long")
    if line.startswith("#"):
        return ""
    text = line.strip(SPACE)
    mark = "!" if text.startswith("!") else ""
    text = text.removeprefix("!").strip(SPACE)
    if text:
        text = clean(text)
        if len(text) > 1:
            text = text.removeprefix("/")
    return mark + text
