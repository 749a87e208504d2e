"""Which stages a build needs, what each is made from, and in which order they can come.

Everything that FROM, ``COPY --from`` and ``RUN --mount=from=`` name is found before the first step runs, for an image
may bring ONBUILD triggers, and those may need further stages. Source: ``dockerfile2llb/convert.go``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pytest_capsule.dockerfile import Dockerfile, parse_trigger
from pytest_capsule.dockerfile import Stage as ParsedStage
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.errors import CapsuleError, DockerfileError
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.image import Image

SCRATCH = "scratch"
_STEPS = (ins.Run, ins.Copy, ins.Add, ins.Workdir)

Finder = Callable[[Mapping[str, ins.Instruction]], dict[str, Image]]
"""Finds images by reference; the instructions are those that name them."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage that will be built.

    ``base`` is the index of an earlier stage, an image, or ``None`` for scratch. ``triggers`` are the ONBUILD
    instructions that the base brings along, ``instructions`` the stage's own; ``needs`` the indices of the stages that
    must be there before. ``name`` and ``steps`` are how BuildKit's progress names it and counts its steps.
    """

    index: int
    name: str
    from_: ins.From
    base: int | Image | None
    triggers: tuple[ins.Instruction, ...]
    instructions: tuple[ins.Instruction, ...]
    needs: frozenset[int]

    @property
    def steps(self) -> int:
        """How many steps it has: an image to begin with, what changes files, and every trigger."""
        own = sum(isinstance(one, _STEPS) for one in self.instructions)
        return isinstance(self.base, Image) + len(self.triggers) + own


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages to build by index, the images that they take files from by reference, and the stage that is wanted."""

    stages: Mapping[int, PlannedStage]
    images: Mapping[str, Image]
    target: int


def platform_arguments() -> dict[str, str]:
    """The predefined arguments that tell of platforms: ``TARGETPLATFORM``, ``BUILDARCH`` …"""
    host = Platform.host(os.uname().machine)
    return {
        f"{side}{name}": value
        for side in ("BUILD", "TARGET")
        for name, value in (
            ("PLATFORM", str(host)),
            ("OS", host.os),
            ("ARCH", host.architecture),
            ("VARIANT", host.variant),
        )
    }


def global_arguments(dockerfile: Dockerfile, build_args: Mapping[str, str], target: str | None) -> dict[str, str]:
    """What FROM may use and an ARG without a value inherits: platforms, and the ARGs before the first FROM."""
    values = {**platform_arguments(), "TARGETSTAGE": target or "default"}
    for arg in dockerfile.meta_args:
        resolved = arg.resolve(Expander(values, escape=dockerfile.escape), build_args)
        values.update({name: value for name, value in resolved if value is not None})
    return values


def make_plan(dockerfile: Dockerfile, target: str | None, arguments: Mapping[str, str], find: Finder) -> Plan:
    """Plan a build; ``DockerfileError`` for a stage or image that cannot be had."""
    images: dict[str, Image] = {}
    while True:
        walk = _Walk(dockerfile, arguments, images)
        wanted = walk.visit(dockerfile.target(target))
        if not walk.unknown:
            return Plan(walk.stages, images, wanted)
        images |= find(walk.unknown)


@dataclass
class _Walk:
    """One walk through all that the target needs, as far as the images are known."""

    dockerfile: Dockerfile
    arguments: Mapping[str, str]
    images: Mapping[str, Image]
    stages: dict[int, PlannedStage] = field(default_factory=dict)
    unknown: dict[str, ins.Instruction] = field(default_factory=dict)

    def visit(self, stage: ParsedStage) -> int:
        """Plan a stage and all that it needs."""
        if stage.index not in self.stages:
            self.stages[stage.index] = self._planned(stage)
        return stage.index

    def _planned(self, stage: ParsedStage) -> PlannedStage:
        from_ = stage.from_.expand(Expander(self.arguments, escape=self.dockerfile.escape))
        base = self._base(stage, from_)
        triggers = tuple(parse_trigger(text, from_.origin) for text in self._triggers(base))
        needs = {base} if isinstance(base, int) else set()
        for instruction in (*triggers, *stage.instructions):
            for reference in ins.sources(instruction):
                other = self._source(stage, instruction, reference)
                if other is not None:
                    needs.add(other)
        return PlannedStage(stage.index, self._name(stage), from_, base, triggers, stage.instructions, frozenset(needs))

    def _base(self, stage: ParsedStage, from_: ins.From) -> int | Image | None:
        earlier = self.dockerfile.base_stage(stage, from_.base)
        if earlier is not None:
            return self.visit(earlier)
        return None if from_.base == SCRATCH else self._image(from_.base, from_)

    def _triggers(self, base: int | Image | None) -> tuple[str, ...]:
        if isinstance(base, Image):
            return base.config.config.on_build
        if base is None:
            return ()
        below = self.stages[base].instructions
        return tuple(one.expression for one in below if isinstance(one, ins.Onbuild))

    def _source(self, stage: ParsedStage, instruction: ins.Instruction, reference: str) -> int | None:
        other = self.dockerfile.find_stage(reference)
        if other is None:
            self._image(reference, instruction)
            return None
        if other.index >= stage.index:
            raise instruction.origin.error(
                f"{instruction.keyword} takes from {reference}: that stage is not built before this one",
                hint="move the stage up, or take from another",
            )
        return self.visit(other)

    def _image(self, reference: str, instruction: ins.Instruction) -> Image | None:
        if reference not in self.images:
            self.unknown.setdefault(reference, instruction)
        return self.images.get(reference)

    def _name(self, stage: ParsedStage) -> str:
        """Empty for the only one; to BuildKit, an image that files are taken from is a stage as well."""
        sources = (reference for one in stage.instructions for reference in ins.sources(one))
        if len(self.dockerfile.stages) == 1 and not any(sources):
            return ""
        return stage.name or f"stage-{stage.index}"


def not_found(
    instruction: ins.Instruction, reference: str, error: CapsuleError, dockerfile: Dockerfile
) -> DockerfileError:
    """The error for an image that an instruction names and that cannot be had."""
    hint = error.hint
    if isinstance(instruction, ins.From) and reference.lower() in {stage.name for stage in dockerfile.stages}:
        hint = f"a stage {reference.lower()} comes later or is spelt otherwise: FROM takes an earlier one"
    return instruction.origin.error(error.message, hint=hint)
