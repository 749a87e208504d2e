"""An engine whose images stay between runs where CAPSULE_TEST_SERVICES names a folder, and images with real servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_capsule import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(os.environ.get("CAPSULE_TEST_SERVICES") or tmp_path_factory.mktemp("services")) as engine:
        yield engine


@pytest.fixture(scope="session")
def debian_with(engine: Engine, debian_tar: Path) -> Callable[[str], Any]:
    """``debian_with(packages)``: an image with these installed, built once for each kind of user."""

    def build(packages: str) -> Any:
        return engine.build(
            Path(__file__).parent, build_args={"DEBIAN": str(debian_tar), "PACKAGES": packages}, tag=f"test-{packages}"
        )

    return build


@pytest.fixture(scope="session")
def installed() -> Callable[[str], None]:
    """``installed(path)`` skips the test where this machine has no such server; in CI it fails."""

    def need(pattern: str) -> None:
        if not any(Path("/").glob(pattern)):
            missing = f"there is no /{pattern}; get it with: sudo scripts/install-peers"
            if os.environ.get("CI"):
                pytest.fail(missing)
            pytest.skip(missing)

    return need
