"""The hooks that a ``conftest.py`` or another plugin can implement.

Those that take an ``item`` are called, as pytest's own, for the tests below the folder of the ``conftest.py``; the
others for the whole run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_capsule import BuildEvent, Container, ContainerSpec, Image


@pytest.hookspec(firstresult=True)
def pytest_capsule_spec(item: pytest.Item, spec: ContainerSpec) -> ContainerSpec | None:
    """Change what a test's container is: return another spec (``spec.with_changes(...)``), or ``None`` to leave it."""


@pytest.hookspec(firstresult=True)
def pytest_capsule_resolve_image(reference: str) -> str | Image | None:
    """Say which image a reference means: another reference, an ``Image``, or ``None`` for the usual one."""


@pytest.hookspec
def pytest_capsule_container_started(container: Container, item: pytest.Item) -> None:
    """A test's container runs, and what the test waits for is there."""


@pytest.hookspec
def pytest_capsule_container_stopping(container: Container, item: pytest.Item) -> None:
    """A test's container is about to be closed: its files, logs and processes can still be looked at."""


@pytest.hookspec
def pytest_capsule_build_event(event: BuildEvent) -> None:
    """Something happened in a build: a step began, printed, ended, failed, or came from the cache."""
