"""Which stages a build needs, what each is made from, and in which order they can come.

Everything that FROM, ``COPY --from`` and ``RUN --mount=from=`` name is found before the first step runs, for an image
may bring ONBUILD triggers, and those may need further stages. Source: ``dockerfile2llb/convert.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pytest_capsule.build.named import NamedContexts, context_named
from pytest_capsule.build.request import Request
from pytest_capsule.dockerfile import Dockerfile, parse_trigger
from pytest_capsule.dockerfile import Stage as ParsedStage
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.text import did_you_mean
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.errors import CapsuleError, DockerfileError, UsageError
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.image import Image

SCRATCH = "scratch"
_STEPS = (ins.Run, ins.Copy, ins.Add, ins.Workdir)


class Wanted(NamedTuple):
    """An image that a Dockerfile names, and what it is to be for."""

    reference: str
    platform: Platform


Finder = Callable[[Mapping[Wanted, ins.Instruction]], dict[Wanted, Image]]
"""Finds images; the instructions are those that name them."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage that will be built.

    ``base`` is the index of an earlier stage, an image, or ``None`` for scratch, ``platform`` what a stage from scratch
    is for. ``triggers`` are the ONBUILD
    instructions that the base brings along, ``instructions`` the stage's own; ``needs`` the indices of the stages that
    must be there before. ``name`` and ``steps`` are how BuildKit's progress names it and counts its steps.
    """

    index: int
    name: str
    from_: ins.From
    base: int | Image | None
    platform: Platform
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
    """The stages to build by index, all images that they name, and the stage that is wanted."""

    stages: Mapping[int, PlannedStage]
    images: Mapping[Wanted, Image]
    target: int


def platform_arguments(target: Platform) -> dict[str, str]:
    """The predefined arguments that tell of platforms: ``TARGETPLATFORM``, ``BUILDARCH`` …"""
    return {
        f"{side}{name}": value
        for side, platform in (("BUILD", Platform.here()), ("TARGET", target))
        for name, value in (
            ("PLATFORM", str(platform)),
            ("OS", platform.os),
            ("ARCH", platform.architecture),
            ("VARIANT", platform.variant),
        )
    }


def global_arguments(dockerfile: Dockerfile, request: Request) -> dict[str, str]:
    """What FROM may use and an ARG without a value inherits: platforms, and the ARGs before the first FROM.

    A build argument goes before what is predefined, without an ARG too.
    """
    predefined = dockerfile.predefined(platform_arguments(request.platform), request.target)
    values = {name: request.build_args.get(name, value) for name, value in predefined.items()}
    for arg in dockerfile.meta_args:
        resolved = arg.resolve(Expander(values, escape=dockerfile.escape), request.build_args)
        values.update({name: value for name, value in resolved if value is not None})
    return values


def make_plan(dockerfile: Dockerfile, request: Request, arguments: Mapping[str, str], find: Finder) -> Plan:
    """Plan a build; ``DockerfileError`` for a stage or image that cannot be had."""
    images: dict[Wanted, Image] = {}
    while True:
        walk = _Walk(dockerfile, arguments, request.platform, request.contexts, images)
        wanted = walk.visit(dockerfile.target(request.target))
        if not walk.unknown:
            return Plan(walk.stages, images, wanted)
        images |= find(walk.unknown)


@dataclass
class _Walk:
    """One walk through all that the target needs, as far as the images are known."""

    dockerfile: Dockerfile
    arguments: Mapping[str, str]
    platform: Platform
    contexts: NamedContexts
    images: Mapping[Wanted, Image]
    stages: dict[int, PlannedStage] = field(default_factory=dict)
    unknown: dict[Wanted, ins.Instruction] = field(default_factory=dict)

    def visit(self, stage: ParsedStage) -> int:
        """Plan a stage and all that it needs."""
        if stage.index not in self.stages:
            self.stages[stage.index] = self._planned(stage)
        return stage.index

    def _planned(self, stage: ParsedStage) -> PlannedStage:
        from_ = stage.from_.expand(Expander(self.arguments, escape=self.dockerfile.escape))
        platform = self._platform(from_)
        base, own = self._begin(stage, from_, platform)
        triggers = tuple(parse_trigger(text, from_.origin) for text in self._triggers(base))
        needs = {base} if isinstance(base, int) else set()
        for instruction in (*triggers, *own):
            for reference in ins.sources(instruction):
                other = self._source(stage, instruction, reference)
                if other is not None:
                    needs.add(other)
        return PlannedStage(stage.index, self._name(stage), from_, base, platform, triggers, own, frozenset(needs))

    def _platform(self, from_: ins.From) -> Platform:
        """What the stage is for: what its FROM says, else what the build is."""
        if not from_.platform:
            return self.platform
        try:
            return Platform.named(from_.platform)
        except UsageError as error:
            raise from_.origin.error(f"FROM --platform={from_.platform}: {error.message}", hint=error.hint) from None

    def _begin(
        self, stage: ParsedStage, from_: ins.From, platform: Platform
    ) -> tuple[int | Image | None, tuple[ins.Instruction, ...]]:
        """What a stage begins with, and its instructions: a context of its own name takes the place of all of it."""
        name, own = stage.name, stage.instructions
        context = context_named(self.contexts, name) if name else None
        if context is not None:
            own = ()
        elif (earlier := self.dockerfile.base_stage(stage, from_.base)) is not None:
            return self.visit(earlier), own
        else:
            name, context = from_.base, context_named(self.contexts, from_.base)
        if isinstance(context, Path):
            return None, (parse_trigger(f"COPY --from={name} . /", from_.origin), *own)
        reference = context or from_.base
        return (None if reference == SCRATCH else self._image(Wanted(reference, platform), from_)), own

    def _triggers(self, base: int | Image | None) -> tuple[str, ...]:
        if isinstance(base, Image):
            return base.config.config.on_build
        if base is None:
            return ()
        below = self.stages[base].instructions
        return tuple(one.expression for one in below if isinstance(one, ins.Onbuild))

    def _source(self, stage: ParsedStage, instruction: ins.Instruction, reference: str) -> int | None:
        context = context_named(self.contexts, reference)
        if isinstance(context, Path):
            return None
        other = self.dockerfile.find_stage(reference) if context is None else None
        if other is None:
            self._image(Wanted(context or reference, self.platform), instruction)
            return None
        if other.index >= stage.index:
            raise instruction.origin.error(
                f"{instruction.keyword} takes from {reference}: that stage is not built before this one",
                hint="move the stage up, or take from another",
            )
        return self.visit(other)

    def _image(self, wanted: Wanted, instruction: ins.Instruction) -> Image | None:
        if wanted not in self.images:
            self.unknown.setdefault(wanted, instruction)
        return self.images.get(wanted)

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
    names = {stage.name for stage in dockerfile.stages if stage.name and stage.line < instruction.line}
    similar = did_you_mean(reference, names)
    hint = error.hint if similar is None else f"{similar.rstrip('?')}, a stage of this Dockerfile? Else {error.hint}"
    if isinstance(instruction, ins.From) and reference.lower() in {stage.name for stage in dockerfile.stages}:
        hint = f"a stage {reference.lower()} comes later or is spelt otherwise: FROM takes an earlier one"
    return instruction.origin.error(error.message, hint=hint)
