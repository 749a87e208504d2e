"""The command line on one shared cache: as a user runs it, in a process of its own; or here, for what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import carry_out

CAPSULE = (sys.executable, "-m", "pytest_capsule")
TIMEOUT = 120

Capsule = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli-cache")


@pytest.fixture
def cli_environment(cli_cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return {**os.environ, "CAPSULE_CACHE_DIR": str(cli_cache)}


@pytest.fixture
def capsule(cli_environment: dict[str, str]) -> Capsule:
    """``capsule("run", "hello-world")`` runs that command to its end; ``.stdout`` and ``.stderr`` are text."""

    def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
        settings = {"capture_output": True, "text": True, "env": cli_environment, "stdin": subprocess.DEVNULL} | options
        if "input" in settings:
            del settings["stdin"]
        return subprocess.run([*CAPSULE, *words], timeout=TIMEOUT, check=False, **settings)

    return run


@pytest.fixture
def capsule_here(cli_environment: dict[str, str], capfdbinary: pytest.CaptureFixture[bytes]) -> Capsule:
    """The same in this process: see ``commands``."""
    return lambda *words, **how: carry_out(capfdbinary, words, cli_environment, **how)


@pytest.fixture
def start_capsule(cli_environment: dict[str, str]):
    """The same, but it returns the running process: stdout is a pipe of bytes, stderr too."""
    started = []

    def start(*words: str, **options) -> subprocess.Popen[bytes]:
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen([*CAPSULE, *words], env=cli_environment, **settings)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                file.close()
