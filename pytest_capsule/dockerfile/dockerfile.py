"""A Dockerfile as a whole: global arguments, stages, and how they find each other."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_capsule.dockerfile.instructions import Arg, From, Instruction
from pytest_capsule.dockerfile.meaning import to_instruction
from pytest_capsule.dockerfile.origin import Origin
from pytest_capsule.dockerfile.parser import ParseWarning, Tree, parse_tree, read_directives
from pytest_capsule.dockerfile.text import did_you_mean, quote
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_INDEX: Final = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Stage:
    """A ``FROM`` and what follows it. ``index`` counts from 0; ``instructions`` are without the ``FROM``."""

    index: int
    from_: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str | None:
        """The name behind ``AS`` in lower case, or ``None``."""
        return self.from_.alias

    @property
    def line(self) -> int:
        """The line of its ``FROM``."""
        return self.from_.line

    @property
    def comment(self) -> str:
        """The doc comment above it: the line ``# name what the stage is for`` gives ``what the stage is for``."""
        return self.from_.comment


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A parsed Dockerfile.

    ``meta_args`` are the ``ARG``s before the first ``FROM``. ``syntax`` and ``check`` are the values of those
    directives, or ``None``; ``escape`` is the escape character. ``warnings`` are what BuildKit's parser warns of.
    """

    path: str
    meta_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    syntax: str | None = None
    check: str | None = None
    warnings: tuple[ParseWarning, ...] = ()

    def find_stage(self, reference: str) -> Stage | None:
        """The stage that ``COPY --from`` or ``RUN --mount=from=`` means: by number, or by name in any case.

        Of two stages with one name the last counts. ``None``: it is an image. A number that no stage has raises
        ``DockerfileError``.
        """
        if _INDEX.fullmatch(reference):
            index = int(reference)
            if not 0 <= index < len(self.stages):
                raise self.stages[0].from_.origin.error(f"invalid stage index {index}", hint="stages count from 0")
            return self.stages[index]
        return next((stage for stage in reversed(self.stages) if stage.name == reference.lower()), None)

    def base_stage(self, stage: Stage, base: str) -> Stage | None:
        """The stage that ``base``, the expanded ``FROM`` of ``stage``, means; only an earlier one counts.

        ``None``: it is an image or ``scratch``. Unlike ``COPY --from``, BuildKit does not fold the case here, so that
        ``FROM Build`` is never the stage ``build``.
        """
        return next((one for one in reversed(self.stages[: stage.index]) if one.name == base), None)

    def target(self, name: str | None = None) -> Stage:
        """The stage to build: the one called ``name`` (in any case), else the last; raise ``DockerfileError``."""
        if name is None:
            return self.stages[-1]
        for stage in reversed(self.stages):
            if stage.name == name.lower():
                return stage
        names = [stage.name for stage in self.stages if stage.name]
        hint = did_you_mean(name, names) or (f"its stages: {', '.join(names)}" if names else "no stage has a name")
        raise self.stages[-1].from_.origin.error(f"target stage {quote(name)} could not be found", hint=hint)

    def predefined(self, platforms: Mapping[str, str], target: str | None = None) -> dict[str, str]:
        """The arguments that FROM knows without an ARG: those of ``platforms``, and what ``TARGETSTAGE`` is."""
        last = self.stages[-1].name if self.stages else None
        return {**platforms, "TARGETSTAGE": target or last or "default"}


def parse(source: bytes | str, path: str = "Dockerfile") -> Dockerfile:
    """Parse a Dockerfile; ``path`` is its name in errors. Raise ``DockerfileError`` for all that BuildKit refuses.

    Variables are not expanded: that needs the state of a build, see ``Instruction.expand``. Bytes that are no UTF-8
    come back from ``str.encode("utf-8", "surrogateescape")``.
    """
    tree = parse_tree(source, path)
    return assemble(tree, (to_instruction(node, tree.escape) for node in tree.nodes), read_directives(source))


def assemble(tree: Tree, instructions: Iterable[Instruction], directives: Mapping[str, str]) -> Dockerfile:
    """Put the instructions of a tree's nodes together; raise ``DockerfileError`` where they make no stages."""
    meta_args, stages = _stages(tree, instructions)
    return Dockerfile(
        path=tree.path,
        meta_args=meta_args,
        stages=stages,
        escape=tree.escape,
        syntax=directives.get("syntax"),
        check=directives.get("check"),
        warnings=tree.warnings,
    )


def parse_trigger(expression: str, origin: Origin | None = None) -> Instruction:
    """Read what an ``ONBUILD`` of the base image left behind; ``origin`` is the ``FROM`` that woke it.

    The expression is read with the backslash as escape character, whatever the Dockerfile's is: so does BuildKit.
    """
    place = origin or Origin()
    try:
        tree = parse_tree(expression)
    except DockerfileError as error:
        raise place.error(error.reason, hint=f"the base image's ONBUILD says: {expression}") from None
    if len(tree.nodes) != 1:
        raise place.error("onbuild trigger should be a single expression")
    (node,) = tree.nodes
    place = replace(place, source=node.origin.source)
    instruction = to_instruction(replace(node, origin=place), tree.escape)
    if isinstance(instruction, From):
        raise place.error("FROM isn't allowed as an ONBUILD trigger")
    return instruction


def _stages(tree: Tree, instructions: Iterable[Instruction]) -> tuple[tuple[Arg, ...], tuple[Stage, ...]]:
    meta_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for node, instruction in zip(tree.nodes, instructions, strict=True):
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            meta_args.append(instruction)
        else:
            raise node.origin.error("no build stage in current context", hint="only ARG may stand before FROM")
    if not stages:
        raise tree.nodes[-1].origin.error("dockerfile contains no stages to build", hint="a stage begins with FROM")
    return tuple(meta_args), _numbered(stages)


def _numbered(stages: Iterable[tuple[From, list[Instruction]]]) -> tuple[Stage, ...]:
    return tuple(Stage(index, from_, tuple(body)) for index, (from_, body) in enumerate(stages))
