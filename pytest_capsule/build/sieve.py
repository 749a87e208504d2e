"""Which files of a directory COPY takes: those of ``--parents``, without ``--exclude`` and ``.dockerignore``.

All three are patterns of moby/patternmatcher. Those of ``.dockerignore`` see a path from the context's root, the others
one from the directory that is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_capsule.dockerfile.dockerignore import IgnoreRules, Verdict

_NOTHING = Verdict("", False)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the three say about one path; handed on for what lies in it. ``taken``: it is to be copied."""

    ignore: Verdict
    exclude: Verdict = _NOTHING
    include: Verdict = _NOTHING
    taken: bool = True


@dataclass(frozen=True, slots=True)
class Sieve:
    """``include`` is turned around: what it "ignores" is what is copied; ``None`` for all."""

    ignore: IgnoreRules
    exclude: IgnoreRules
    include: IgnoreRules | None = None

    @property
    def has_patterns(self) -> bool:
        """Whether it leaves out anything at all."""
        return bool(self.ignore.patterns or self.exclude.patterns or self.include)

    def judge(self, full: str, path: str, above: Judgement) -> Judgement:
        """Judge ``path`` (``full`` from the context's root), given the judgement on its directory."""
        ignore = self.ignore.verdict(full, above.ignore)
        exclude = self.exclude.verdict(path, above.exclude)
        include = self.include.verdict(path, above.include) if self.include else _NOTHING
        wanted = include.ignored or self.include is None
        return Judgement(ignore, exclude, include, wanted and not (ignore.ignored or exclude.ignored))

    def may_take_within(self, path: str, judgement: Judgement) -> bool:
        """Whether anything in a directory that is not taken itself may be."""
        return (
            self.ignore.may_contain_kept(judgement.ignore)
            and self.exclude.may_contain_kept(judgement.exclude)
            and (self.include is None or judgement.include.ignored or self._leads_to_included(path))
        )

    def _leads_to_included(self, path: str) -> bool:
        """Whether a directory stands on the way to what a pattern of ``include`` may match."""
        parts = path.split("/")
        for pattern in self.include.patterns if self.include else ():
            fixed = []
            for part in pattern.text.split("/"):
                if any(character in part for character in "*?[\\"):
                    break
                fixed.append(part)
            if all(ours == theirs for ours, theirs in zip(parts, fixed, strict=False)):
                return True
        return False
