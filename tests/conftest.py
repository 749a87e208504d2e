"""What every test may ask for: who runs it, and a real Debian to run things in."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watching import PATIENCE, until

from pytest_capsule._linux import constants, syscalls
from pytest_capsule.store import host

pytest_plugins = ["pytester"]

MAKE_ROOTFS = "sudo scripts/make-debian-rootfs"
ROOTFS = "/var/cache/pytest-capsule-ci/debian-bookworm"


def current_identity() -> str:
    """Who runs the tests: ``root``, ``range`` (subordinate ids and the tools to map them) or ``single``."""
    if os.geteuid() == 0:
        return "root"
    owners = {getpass.getuser(), str(os.getuid())}
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return "single"
    return "range" if all(_has_range(Path(f"/etc/{name}"), owners) for name in ("subuid", "subgid")) else "single"


def _has_range(path: Path, owners: set[str]) -> bool:
    return path.exists() and any(line.split(":")[0] in owners for line in path.read_text().splitlines())


def pytest_configure() -> None:
    os.environ.setdefault("CAPSULE_PULL", "never")  # no test asks a registry that it has not started itself

    # Images of Python set it, and with it each pytest within would rewrite the assertions of all its plugins anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    # Whoever starts us may have signals ignored: nohup, a shell that puts us into the background, the C library's
    # posix_spawn(3) its two. What the tests start, peers too, would inherit that.
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python ignores those two itself
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for unnamed in constants.SIGNALS_OF_THE_C_LIBRARY:
        syscalls.forget_signal_handler(unnamed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = current_identity()
    for item in items:
        for mark in item.iter_markers("identities"):
            if unknown := set(mark.args) - {"root", "range", "single"}:
                raise pytest.UsageError(f"{item.nodeid}: no such identity: {', '.join(sorted(unknown))}")
            if here not in mark.args:
                item.add_marker(pytest.mark.skip(reason=f"for {', '.join(mark.args)}; this run is {here}"))


@pytest.fixture(scope="session")
def identity() -> str:
    """``root``, ``range`` or ``single``: each starts a container in another way (see scripts/test-as-each-identity)."""
    return current_identity()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """``eventually(condition)`` asks until it is true, and gives what it said."""

    def wait(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        found = until(condition, seconds)
        assert found, f"not within {seconds} s: {condition}"
        return found

    return wait


@pytest.fixture(scope="session")
def debian_rootfs() -> Path:
    """A minimal Debian as a directory, owned by root: `rootfs:` for root; others read ``debian_tar``."""
    return _made(Path(os.environ.get("CAPSULE_TEST_ROOTFS", ROOTFS)))


@pytest.fixture(scope="session")
def debian_tar(debian_rootfs: Path) -> Path:
    """The same Debian as a tar that anyone can read, with its owners by number and no device nodes."""
    return _made(debian_rootfs.with_name(debian_rootfs.name + ".tar"))


@pytest.fixture
def steady_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """``capsule/host`` is the same to the end of the test, for tests that count on its cache.

    Otherwise it is another as soon as somebody installs a package here, or starts a dockerd for the first time: that
    makes /opt/containerd.
    """
    monkeypatch.setattr(host, "_state", lambda directories, *, foreign: f"steady-{foreign}")


def _made(path: Path) -> Path:
    if not path.exists():
        missing = f"there is no Debian at {path}; make it with: {MAKE_ROOTFS}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path
