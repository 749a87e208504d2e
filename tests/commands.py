"""The ``capsule`` command in the tests' own process, a fifth of the work: for what needs no input and no signal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_capsule.cli import main


def carry_out(
    capture: pytest.CaptureFixture[bytes],
    words: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    text: bool = True,
) -> subprocess.CompletedProcess[Any]:
    """One command, with what it would be as a process; ``capture`` is the fixture ``capfdbinary``."""
    capture.readouterr()
    with pytest.MonkeyPatch.context() as here, open(os.devnull) as nothing:
        here.setattr(sys, "stdin", nothing)
        for name, value in environment.items():
            here.setenv(name, value)
        if cwd is not None:
            here.chdir(cwd)
        try:
            code = main(words)
        except SystemExit as end:  # argparse has said something
            code = end.code
    said = capture.readouterr()
    output, errors = (said.out.decode(), said.err.decode()) if text else said
    return subprocess.CompletedProcess(words, code, output, errors)
