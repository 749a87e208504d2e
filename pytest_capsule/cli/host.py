"""``capsule check``: what this host can do."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    """Tell the parser of ``check``."""
    parser = commands.add(
        "check",
        check,
        "say what this host can and cannot do for containers",
        description="Try each thing that a container needs, run hello-world, and say what works, what does not, and "
        "what mends it. The exit code is 1 if something needed is missing.",
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="look at the images instead: verify every digest and record, and mend what is broken, or name it",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def check(call: Invocation) -> int:
    """Print the report."""
    if call.options.store:
        return _check_store(call)
    with call.engine() as engine:
        report = engine.check()
    print(json.dumps(report.to_json(), indent=2) if call.options.json else report.table())
    return 0 if report.works else 1


def _check_store(call: Invocation) -> int:
    """What was looked at and what was broken; 1 for what could not be mended."""
    with call.engine() as engine:
        found = engine.verify()
        root = engine.cache_dir
    if call.options.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        for problem in found.problems:
            print(problem)
        state = "nothing is broken" if not found.problems else f"{len(found.problems)} things were broken"
        print(f"{root}: {found.images} images, {found.layers} layers, {found.blobs} blobs: {state}")
    return int(any(not problem.mended for problem in found.problems))
