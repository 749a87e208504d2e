"""A whole build: its stages, and the image that comes out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pytest_capsule.build.checks import check_plan
from pytest_capsule.build.context import Context
from pytest_capsule.build.epoch import Epoch
from pytest_capsule.build.errands import Errands
from pytest_capsule.build.events import BuildEvent
from pytest_capsule.build.execution import Execution, Sharing, root_key
from pytest_capsule.build.failure import Remains
from pytest_capsule.build.folders import HostFolder
from pytest_capsule.build.labels import Label, Numbering, internal
from pytest_capsule.build.named import context_named
from pytest_capsule.build.plan import Plan, PlannedStage, Wanted, global_arguments, make_plan, not_found
from pytest_capsule.build.reasons import Reasons
from pytest_capsule.build.request import IGNORED, Request
from pytest_capsule.build.schedule import Canceled, Schedule
from pytest_capsule.build.stage import Stage, Surroundings
from pytest_capsule.build.steps import Workshop
from pytest_capsule.dockerfile import Dockerfile, IgnoreRules, parse
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.lint import check_options
from pytest_capsule.errors import CapsuleError, DockerfileError
from pytest_capsule.oci.config import ImageConfig
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.builtin import DEFAULT_PATH, scratch_config
from pytest_capsule.store.caches import Caches
from pytest_capsule.store.image import Image, Tree
from pytest_capsule.store.store import Store

FindImage = Callable[[str, Platform, Callable[[str], None]], Image]
"""Finds, or pulls, what FROM names, for a platform. It says what it does, and where that takes long, an empty text now
and then: that raises where the build was given up."""


def build(
    wanted: Request,
    *,
    store: Store,
    workshop: Workshop,
    find_image: FindImage,
    tell: Callable[[BuildEvent], None] | None,
    sharing: Sharing | None = None,
) -> Image:
    """Build an image; ``tell`` hears what happens, in this thread.

    Stages that do not need each other are built at the same time. ``DockerfileError`` for a Dockerfile that BuildKit
    would refuse, ``BuildError`` for a step that failed; the first of them ends all others.
    """
    canceled = threading.Event()
    listened = tell is not None
    tell = _signed(tell or _tell_nobody, wanted.shown)

    def cancel() -> None:
        canceled.set()
        workshop.cancel()

    schedule = Schedule(tell, cancel, limit=max(2, os.cpu_count() or 1))
    with _step(tell, f"load build definition from {wanted.dockerfile.name}"):
        dockerfile = parse(wanted.dockerfile.read_bytes(), wanted.shown)
    arguments = global_arguments(dockerfile, wanted)
    plan = make_plan(dockerfile, wanted, arguments, partial(_find_all, schedule, canceled, find_image, dockerfile))
    with _step(tell, "load .dockerignore"):
        rules = wanted.ignore_rules()
    if listened or check_options(dockerfile.check, wanted.build_args).error:
        _check(wanted, plan, rules, tell)
    with (
        _contexts(wanted, rules, store) as (context, named),
        contextlib.closing(Reasons(store, str(wanted.dockerfile), no_cache=wanted.no_cache)) as reasons,
        Remains.of(wanted).kept(store),
        Errands() as errands,
    ):
        stages = Stages(dockerfile, plan, wanted)
        around = Surroundings(
            store=store,
            workshop=workshop,
            execution=Execution(store, schedule.tell, canceled, sharing, errands, no_cache=wanted.no_cache),
            context=context,
            named_context=partial(context_named, named),
            build_args=wanted.build_args,
            global_args=arguments,
            escape=dockerfile.escape,
            find_tree=stages.tree_of,
            reasons=reasons,
            caches=Caches(store.root / "caches", anew=wanted.no_cache),
            secrets=wanted.secrets,
            agents=wanted.agents,
            epoch=Epoch.of(wanted.build_args, arguments),
        )
        schedule.run({index: stage.needs for index, stage in plan.stages.items()}, partial(stages.build, around))
    image = stages[plan.target].image(wanted.labels)
    if sharing is not None:
        sharing.finish(stages[plan.target].key)
    if listened:  # an id is found out when it is asked for
        tell(BuildEvent("image", str(image), text=image.id))
    return image


@contextlib.contextmanager
def _contexts(wanted: Request, rules: IgnoreRules | None, store: Store) -> Iterator[tuple[Context, dict[str, Context]]]:
    """The build context, and those folders that have a name."""
    with contextlib.ExitStack() as kept:
        named = {}
        for name, folder in wanted.contexts.items():
            if isinstance(folder, Path):
                file = folder / IGNORED
                own = IgnoreRules.parse(file.read_bytes(), path=str(file)) if file.is_file() else None
                named[name] = kept.enter_context(_remembered(folder, name, own, store))
        yield kept.enter_context(_remembered(wanted.context, wanted.dockerfile, rules, store)), named


@contextlib.contextmanager
def _remembered(folder: Path, use: Path | str, rules: IgnoreRules | None, store: Store) -> Iterator[Context]:
    """A context, with the digests of its files from last time; those of this time are kept in the end."""
    name = "context-" + hashlib.sha256(os.fsencode(folder) + b"\0" + os.fsencode(use)).hexdigest()
    context = Context(HostFolder(str(folder)), rules, memory=store.memory(name))
    yield context
    if context.changed:
        store.remember(name, context.memory)


def _tell_nobody(event: BuildEvent) -> None:
    """The progress of who wants none."""


def _signed(tell: Callable[[BuildEvent], None], dockerfile: str) -> Callable[[BuildEvent], None]:
    """``tell`` with the name of the Dockerfile on every event."""
    return lambda event: tell(replace(event, dockerfile=dockerfile))


@contextlib.contextmanager
def _step(tell: Callable[[BuildEvent], None], what: str) -> Iterator[Label]:
    """Tell of a step of the build's own, around what it does."""
    label = internal(what)
    started = time.monotonic()
    tell(label.event("start"))
    try:
        yield label
    except CapsuleError as error:
        tell(label.event("failed", text=error.message, seconds=time.monotonic() - started))
        raise
    tell(label.event("done", seconds=time.monotonic() - started))


def _check(wanted: Request, plan: Plan, rules: IgnoreRules | None, tell: Callable[[BuildEvent], None]) -> None:
    """Tell of what the build checks have found, and end the build where the Dockerfile wants that."""
    result = check_plan(wanted, plan, rules)
    for warning in result.warnings:
        tell(BuildEvent("warning", warning.rule, line=warning.line, text=str(warning)))
    violation = result.violation()
    if violation is not None:
        raise violation


def _find_all(
    schedule: Schedule,
    canceled: threading.Event,
    find_image: FindImage,
    dockerfile: Dockerfile,
    unknown: Mapping[Wanted, ins.Instruction],
) -> dict[Wanted, Image]:
    """Find images, several at once: some are pulled."""
    found: dict[Wanted, Image] = {}
    listed = list(unknown)

    def find(number: int) -> None:
        wanted = listed[number]
        reference, platform = wanted
        with _step(schedule.tell, f"load metadata for {reference}") as label:

            def note(text: str) -> None:
                if canceled.is_set():
                    raise Canceled
                if text:
                    schedule.tell(label.event("output", text=text))

            try:
                found[wanted] = find_image(reference, platform, note)
            except DockerfileError:
                raise
            except CapsuleError as error:
                raise not_found(unknown[wanted], reference, error, dockerfile) from None

    schedule.run(dict.fromkeys(range(len(listed)), ()), find)
    return found


class Stages:
    """The stages of one build, each there once it is built."""

    def __init__(self, dockerfile: Dockerfile, plan: Plan, wanted: Request) -> None:
        self._dockerfile = dockerfile
        self._wanted = wanted
        self._plan = plan
        self._built: dict[int, Stage] = {}

    def __getitem__(self, index: int) -> Stage:
        return self._built[index]

    def build(self, around: Surroundings, index: int) -> None:
        """Build a stage; those that it needs are there."""
        planned = self._plan.stages[index]
        stage = self._begin(around, planned)
        for instruction in planned.triggers:
            stage.carry_out(instruction, is_trigger=True)
        for instruction in planned.instructions:
            stage.carry_out(instruction)
        self._built[index] = stage

    def _begin(self, around: Surroundings, planned: PlannedStage) -> Stage:
        """A stage as its FROM leaves it."""
        numbering = Numbering(planned.name, planned.steps)

        def begin(tree: Tree, config: ImageConfig, key: str, **more: Any) -> Stage:
            reasons = around.reasons.of_stage(planned.index, key)
            return Stage(around, numbering, reasons, tree, config.with_config(on_build=()), key, **more)

        if isinstance(planned.base, int):
            below = self[planned.base]
            variables = {**below.variables, **below.config.config.env_dict()}
            more = {"created": below.created, "variables": variables, "declared": dict(below.declared)}
            return begin(below.tree, below.config, below.key, **more)
        if planned.base is None:
            config = scratch_config(planned.platform)
            return begin(Tree(), config, root_key(Tree()), variables=config.config.env_dict())
        tree, config = planned.base.tree, planned.base.config
        if "PATH" not in config.config.env_dict():
            config = config.with_env("PATH", DEFAULT_PATH)
        stage = begin(tree, config, root_key(tree), created=config.created, variables=config.config.env_dict())
        label = stage.numbering.next(f"FROM {planned.from_.base}", planned.from_.line)
        around.execution.tell(label.event("cached"))
        return stage

    def tree_of(self, reference: str, instruction: ins.Instruction) -> Tree:
        """The files that ``from`` of an instruction means: those of a stage, or of an image."""
        context = context_named(self._wanted.contexts, reference)
        stage = self._dockerfile.find_stage(reference) if context is None else None
        if stage is not None:
            return self[stage.index].tree
        return self._plan.images[Wanted(str(context or reference), self._wanted.platform)].tree
