"""What stays of a test's container for someone to look into: an image of it, or a shell in it while it lives."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from pytest_capsule.errors import CapsuleError

if TYPE_CHECKING:
    import pytest

    from pytest_capsule.engine import Engine
    from pytest_capsule.runtime.container import Container

_REPOSITORY = "capsule-kept"
_LONGEST = 100


def keep(container: Container, engine: Engine, nodeid: str, *, cache_dir: object = None, alone: bool = True) -> str:
    """Make an image of a container, instead of the one of the last run; returns the command that opens it."""
    name = nodeid if alone else f"{nodeid} {container.name}"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[-_LONGEST:].strip("-")
    image = engine.commit(container, f"{_REPOSITORY}/{slug}")
    where = f"--cache-dir {shlex.quote(str(cache_dir))} " if cache_dir is not None else ""
    return f"{_program()} {where}run -it --rm --entrypoint {shell_of(container)} {image.name}"


def _program() -> str:
    """What to type for our command line: its name, or where it is when no environment is activated."""
    beside = os.path.join(os.path.dirname(sys.executable), "capsule")
    if shutil.which("capsule") == beside:
        return "capsule"
    return shlex.quote(beside) if os.path.isfile(beside) else f"{shlex.quote(sys.executable)} -m pytest_capsule"


def shell_of(container: Container) -> str:
    """The program that the image's shell form runs, without its arguments."""
    return container.spec.shell[0]


def open_shell(container: Container, config: pytest.Config) -> None:
    """A shell inside, on the terminal of whoever runs pytest, until it is left."""
    from pytest_capsule.cli.attach import attach_command

    capture = config.pluginmanager.get_plugin("capturemanager")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert capture is not None
    assert reporter is not None
    capture.suspend(in_=True)
    reporter.ensure_newline()
    try:
        if not os.isatty(0):
            reporter.write_line("--capsule-shell: there is no terminal to open a shell on", red=True)
            return
        reporter.write_sep(
            ">", f"capsule shell in container {container.name} (image {container.image}); leave with exit"
        )
        attach_command(container, [shell_of(container)])
        reporter.write_sep(">", "pytest goes on")
    except CapsuleError as error:
        reporter.write_line(str(error), red=True)
    finally:
        capture.resume()
