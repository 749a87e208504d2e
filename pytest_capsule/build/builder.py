"""A whole build: which stages are needed, in which order, and the image that comes out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pytest_capsule.build.context import Context
from pytest_capsule.build.events import BuildEvent
from pytest_capsule.build.execution import Execution, root_key
from pytest_capsule.build.folders import HostFolder
from pytest_capsule.build.stage import FILE_STEPS, Stage, Surroundings
from pytest_capsule.build.steps import Workshop
from pytest_capsule.dockerfile import Dockerfile, IgnoreRules, parse, parse_trigger
from pytest_capsule.dockerfile import Stage as ParsedStage
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.errors import CapsuleError, DockerfileError, UsageError
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.builtin import DEFAULT_PATH, scratch_config
from pytest_capsule.store.image import Image, Tree
from pytest_capsule.store.store import Store

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Request:
    """What to build: ``context`` is a folder, ``dockerfile`` the file itself; both exist."""

    context: Path
    dockerfile: Path
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False


def request(
    context: str | os.PathLike[str],
    dockerfile: str | os.PathLike[str] | None = None,
    *,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
) -> Request:
    """Find the Dockerfile of a build: ``UsageError`` when there is no such folder or file.

    ``context`` may be the path of a Dockerfile; its folder is the context then. ``dockerfile`` is relative to the
    context, as for Docker's ``-f`` relative to the current folder where it is not found there.
    """
    folder = Path(context)
    if folder.is_file() and dockerfile is None:
        folder, dockerfile = folder.parent, folder.name
    if not folder.is_dir():
        raise UsageError(f"build: no such folder: {folder}", hint="the context is the folder that COPY takes from")
    candidates = [folder / "Dockerfile"] if dockerfile is None else [folder / dockerfile, Path(dockerfile)]
    for candidate in candidates:
        if candidate.is_file():
            arguments = {name: str(value) for name, value in (build_args or {}).items()}
            return Request(folder.resolve(), candidate.resolve(), target, arguments, no_cache)
    raise UsageError(
        f"build: no such Dockerfile: {candidates[0]}", hint="name it with dockerfile= (on the command line: -f)"
    )


def build(
    wanted: Request,
    *,
    store: Store,
    workshop: Workshop,
    find_image: Callable[[str], Image],
    tell: Callable[[BuildEvent], None],
) -> Image:
    """Build an image. ``find_image`` resolves what FROM names; ``tell`` hears what happens.

    ``DockerfileError`` for a Dockerfile that BuildKit would refuse, ``BuildError`` for a step that failed.
    """
    shown = (
        os.path.relpath(wanted.dockerfile) if wanted.dockerfile.is_relative_to(Path.cwd()) else str(wanted.dockerfile)
    )
    dockerfile = parse(wanted.dockerfile.read_bytes(), shown)
    memory_name = hashlib.sha256(os.fsencode(wanted.context) + b"\0" + os.fsencode(wanted.dockerfile)).hexdigest()
    context = Context(HostFolder(str(wanted.context)), _ignore_rules(wanted), memory=store.memory(memory_name))
    image = _Build(wanted, dockerfile, context, store, workshop, find_image, tell).run()
    if context.changed:
        store.remember(memory_name, context.memory)
    tell(BuildEvent("image", str(image), text=image.id))
    return image


def _ignore_rules(wanted: Request) -> IgnoreRules | None:
    """``<Dockerfile>.dockerignore`` where there is one, else the context's ``.dockerignore``."""
    for path in (Path(f"{wanted.dockerfile}.dockerignore"), wanted.context / ".dockerignore"):
        if path.is_file():
            return IgnoreRules.parse(path.read_bytes(), path=str(path))
    return None


class _Build:
    def __init__(
        self,
        wanted: Request,
        dockerfile: Dockerfile,
        context: Context,
        store: Store,
        workshop: Workshop,
        find_image: Callable[[str], Image],
        tell: Callable[[BuildEvent], None],
    ) -> None:
        self._wanted = wanted
        self._dockerfile = dockerfile
        self._find_image = find_image
        self._tell = tell
        self._built: dict[int, Stage] = {}
        self._begun: set[int] = set()
        self._target = dockerfile.target(wanted.target)
        self._global_args = self._resolve_global_args()
        self._around = Surroundings(
            store=store,
            workshop=workshop,
            execution=Execution(store, tell, no_cache=wanted.no_cache),
            context=context,
            build_args=wanted.build_args,
            global_args=self._global_args,
            escape=dockerfile.escape,
            find_tree=self._tree_of,
        )

    def run(self) -> Image:
        for stage in self._needed():
            self._stage(stage)
        return self._stage(self._target).image()

    def _stage(self, parsed: ParsedStage) -> Stage:
        """A stage, built now if it was not: an ONBUILD trigger may ask for one that nobody has counted on."""
        if parsed.index not in self._built:
            self._begun.add(parsed.index)
            self._built[parsed.index] = self._build_stage(parsed)
        return self._built[parsed.index]

    def _resolve_global_args(self) -> dict[str, str]:
        host = Platform.host(os.uname().machine)
        values = {
            f"{side}{name}": value
            for side in ("BUILD", "TARGET")
            for name, value in (
                ("PLATFORM", str(host)),
                ("OS", host.os),
                ("ARCH", host.architecture),
                ("VARIANT", host.variant),
            )
        }
        values["TARGETSTAGE"] = self._wanted.target or "default"
        for arg in self._dockerfile.meta_args:
            resolved = arg.resolve(Expander(values, escape=self._dockerfile.escape), self._wanted.build_args)
            values.update({name: value for name, value in resolved if value is not None})
        return values

    def _needed(self) -> list[ParsedStage]:
        """The stages that the target is made from, each after those that it takes from itself."""
        order: dict[int, ParsedStage] = {}

        def visit(stage: ParsedStage) -> None:
            if stage.index in order:
                return
            for other in self._sources_of(stage):
                if other.index < stage.index:
                    visit(other)
            order[stage.index] = stage

        visit(self._target)
        return list(order.values())

    def _sources_of(self, stage: ParsedStage) -> Iterator[ParsedStage]:
        base = self._dockerfile.base_stage(stage, self._expanded_base(stage).base)
        if base is not None:
            yield base
        for instruction in stage.instructions:
            if isinstance(instruction, ins.Copy) and instruction.from_:
                other = self._dockerfile.find_stage(instruction.from_)
                if other is not None:
                    if other.index >= stage.index:
                        raise _not_built_before(instruction, instruction.from_)
                    yield other

    def _expanded_base(self, stage: ParsedStage) -> ins.From:
        return stage.from_.expand(Expander(self._global_args, escape=self._dockerfile.escape))

    def _build_stage(self, parsed: ParsedStage) -> Stage:
        stage = self._begin(parsed)
        triggers = tuple(parse_trigger(text, parsed.from_.origin) for text in stage.config.config.on_build)
        stage.config = stage.config.with_config(on_build=())
        instructions = (*triggers, *parsed.instructions)
        stage.steps = 1 + sum(isinstance(one, FILE_STEPS) for one in instructions)
        self._tell(stage.label(parsed.from_).event("cached"))
        for instruction in instructions:
            stage.carry_out(instruction)
        return stage

    def _begin(self, parsed: ParsedStage) -> Stage:
        """A stage as its FROM leaves it."""
        base = self._expanded_base(parsed)
        begin = partial(Stage, self._around, self._shown_name(parsed))
        earlier = self._dockerfile.base_stage(parsed, base.base)
        if earlier is not None:
            below = self._stage(earlier)
            variables = {**below.variables, **below.config.config.env_dict()}
            return begin(below.tree, below.config, below.key, below.created, variables, dict(below.declared))
        if base.base == SCRATCH:
            tree, config, created = Tree(), scratch_config(), ""
        else:
            image = self._base_image(base)
            tree, config, created = image.tree, image.config, image.config.created
        if "PATH" not in config.config.env_dict():
            config = config.with_env("PATH", DEFAULT_PATH)
        return begin(tree, config, root_key(tree), created, config.config.env_dict())

    def _shown_name(self, parsed: ParsedStage) -> str:
        if len(self._dockerfile.stages) == 1:
            return ""
        return parsed.name or f"stage-{parsed.index}"

    def _base_image(self, base: ins.From) -> Image:
        try:
            return self._find_image(base.base)
        except DockerfileError:
            raise
        except CapsuleError as error:
            names = [stage.name for stage in self._dockerfile.stages if stage.name]
            hint = error.hint
            if base.base.lower() in names:
                hint = f"a stage {base.base.lower()} comes later or is spelt otherwise: FROM takes an earlier one"
            raise base.origin.error(error.message, hint=hint) from None

    def _tree_of(self, reference: str, instruction: ins.Instruction) -> Tree:
        stage = self._dockerfile.find_stage(reference)
        if stage is not None:
            if stage.index in self._begun - self._built.keys():
                raise _not_built_before(instruction, reference)
            return self._stage(stage).tree
        try:
            image = self._find_image(reference)
        except CapsuleError as error:
            raise instruction.origin.error(error.message, hint=error.hint) from None
        return image.tree


def _not_built_before(instruction: ins.Instruction, reference: str) -> DockerfileError:
    return instruction.origin.error(
        f"COPY --from={reference}: that stage is not built before this one",
        hint="move the stage up, or take from another",
    )
