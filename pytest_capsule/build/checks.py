"""BuildKit's build checks on what is about to be built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from pytest_capsule.build.plan import Plan, global_arguments, platform_arguments
from pytest_capsule.build.request import Request
from pytest_capsule.dockerfile import Dockerfile, IgnoreRules, parse
from pytest_capsule.dockerfile.lint import BaseImage, LintResult, lint
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.errors import CapsuleError, DockerfileError
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.image import Image


def check_plan(wanted: Request, plan: Plan, rules: IgnoreRules | None) -> LintResult:
    """Check the stages of a plan."""
    stages = plan.stages.values()
    bases = {stage.from_.base: _described(stage.base) for stage in stages if isinstance(stage.base, Image)}
    return _lint(wanted, bases, rules, plan.target)


def check(wanted: Request, find_image: Callable[[str], Image]) -> LintResult:
    """Check a Dockerfile of which nothing will be built: all of its stages, or those that the target needs.

    ``find_image`` finds images that are there already; the others stay unknown.
    """
    bases: dict[str, BaseImage] = {}
    target = None
    with contextlib.suppress(DockerfileError):  # the check tells of it in its result
        dockerfile = parse(wanted.dockerfile.read_bytes(), wanted.shown)
        if wanted.target is not None:
            target = dockerfile.target(wanted.target).index
        for reference in _references(dockerfile, wanted):
            with contextlib.suppress(CapsuleError):
                bases[reference] = _described(find_image(reference))
    return _lint(wanted, bases, wanted.ignore_rules(), target)


def _lint(wanted: Request, bases: Mapping[str, BaseImage], rules: IgnoreRules | None, target: int | None) -> LintResult:
    return lint(
        wanted.dockerfile.read_bytes(),
        wanted.shown,
        platforms=platform_arguments(wanted.platform),
        build_args=wanted.build_args,
        bases=bases,
        ignore=rules,
        target=target,
    )


def _references(dockerfile: Dockerfile, wanted: Request) -> Iterator[str]:
    arguments = global_arguments(dockerfile, wanted)
    for stage in dockerfile.stages:
        yield stage.from_.expand(Expander(arguments, escape=dockerfile.escape)).base


def _described(image: Image) -> BaseImage:
    config = image.config
    platform = Platform(config.os, config.architecture, config.variant) if config.architecture else ""
    return BaseImage(config.config.env_dict(), config.config.shell, str(platform))
