"""A Ctrl-C at any line of a start: what it had begun is taken back."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path

import psutil
import pytest
from watching import descriptors

from pytest_capsule import engine as engine_module
from pytest_capsule import wait
from pytest_capsule.runtime import cgroups, command_access, main_process, restraint, sandbox
from pytest_capsule.runtime import container as container_module

STARTING = (engine_module, container_module, main_process, command_access, sandbox, restraint, cgroups)
FILES = {module.__file__ for module in STARTING}
READY = 4  # blank containers, those that were ordered for the next test and the next RUN


class Interruption:
    """Raises at the line with this number of those that are gone through in ``FILES``.

    Lines that a statement comes back to when a call of it has returned, or a block has ended, do not count, and neither
    does ``try``: there Python looks for no signal.
    """

    def __init__(self, number):
        self.left = number
        self.reached = {}

    def __enter__(self):
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, _):
        self.reached.pop(id(frame), None)
        return self._line if frame.f_code.co_filename in FILES else None

    def _line(self, frame, event, _):
        before = self.reached.get(id(frame), 0)
        self.reached[id(frame)] = frame.f_lineno
        passive = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() == "try:"
        if event == "line" and frame.f_lineno > before and not passive:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt(f"{frame.f_code.co_name}, line {frame.f_lineno}")
        return self._line


def inits(engine):
    supervisor = psutil.Process(engine._supervisor.pid)
    return [child for child in supervisor.children() if child.name() == "init"]


def groups():
    """The control groups that this process has made for containers, in any hierarchy."""
    return {path for path in Path("/sys/fs/cgroup").rglob(f"pytest-capsule-*-{os.getpid()}-*") if path.is_dir()}


def namespaces():
    """The network namespaces that this process has descriptors of."""
    return [link for link in descriptors().values() if link.startswith("net:")]


# What was in a local variable only is closed when nobody has it any more, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": "64m", "wait": wait.log("ready"), "ports": [80], "tmpfs": ["/there"]},
        {"network": "of its own"},
    ],
    ids=["plain", "with all", "on a network"],
)
def test_a_start_that_is_interrupted_leaves_nothing(engine, eventually, options):
    with engine.network() as network:
        if "network" in options:
            options = {"network": network}
        start = {"image": "capsule/host", "command": ["sh", "-c", "echo ready; sleep 1000"], **options}
        engine.run(**start).close()
        before = len(namespaces())
        groups_before = groups()
        others = set(engine._open)
        number, interrupted = 0, True
        while interrupted:
            number += 1
            assert number < 2000
            try:
                with Interruption(number):
                    container = engine.run(**start)
                interrupted = False
                container.close()
            except KeyboardInterrupt as interruption:
                where = interruption.args[0]
                assert set(engine._open) == others, where
                assert eventually(lambda: len(inits(engine)) <= READY + len(others)), where
    assert number > 50
    assert len(namespaces()) <= before
    assert groups() == groups_before
