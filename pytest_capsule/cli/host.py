"""``capsule check``: what this host can do."""

from __future__ import annotations

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
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def check(call: Invocation) -> int:
    """Print the report."""
    with call.engine() as engine:
        report = engine.check()
    print(json.dumps(report.to_json(), indent=2) if call.options.json else report.table())
    return 0 if report.works else 1
