"""Test suites in miniature, run by a pytest of their own on one shared cache."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import leftovers
import pytest

import pytest_capsule

# An inner pytest in this process forgets the modules that it was the first to import; a class imported twice is two
# classes, so everything is imported here, before.
for module in pkgutil.walk_packages(pytest_capsule.__path__, "pytest_capsule."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugin-cache")


@pytest.fixture(autouse=True)
def only_the_plugins_that_are_tried(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the outer run needs and imports for half a second is not loaded by each pytest within."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")


@pytest.fixture
def suite(pytester: pytest.Pytester, cache: Path):
    """``suite("test code", "-v")`` runs the code with pytest and gives the result."""

    def run(code: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_suite=code)
        return pytester.runpytest_inprocess(f"--capsule-cache-dir={cache}", "-p", "no:cacheprovider", *options)

    return run


@pytest.fixture
def run(pytester: pytest.Pytester, cache: Path):
    """``run("test code", "-n2")`` runs the code with a pytest of its own, and sees that nothing of that is left."""

    def run(code: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_suite=code)
        words = ["-m", "pytest", "-Werror", "-p", "no:cacheprovider", f"--capsule-cache-dir={cache}", *options]
        result = pytester.run(sys.executable, leftovers.__file__, sys.executable, *words, timeout=300)
        assert "left behind" not in result.stderr.str()
        return result

    return run
