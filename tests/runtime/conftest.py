"""One engine for the session, and containers of this machine's userland and of a Debian to try things in."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_capsule import Engine

DEADLINE = 20.0


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    cache = tmp_path_factory.mktemp("runtime-cache")
    with Engine(cache_dir=cache) as engine:
        yield engine
        for layers in cache.glob("*/layers"):  # with a range of ids only the engine may touch all that is in there
            engine._call_in_store("remove", str(layers))


@pytest.fixture
def host(engine: Engine) -> Iterator[Any]:
    """A container of this machine's own userland, with no main process."""
    with engine.run("capsule/host", command=[]) as container:
        yield container


@pytest.fixture(scope="session")
def debian_image(engine: Engine, debian_tar: Path) -> Any:
    return engine.image(f"rootfs:{debian_tar}")


@pytest.fixture
def debian(engine: Engine, debian_image: Any) -> Iterator[Any]:
    """A container of a Debian, with no main process."""
    with engine.run(debian_image, command=[]) as container:
        yield container


@pytest.fixture(scope="session")
def in_thread() -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """``in_thread(function)`` calls it in a thread; what it gives is a function that waits for its value or error."""

    def start(function: Callable[[], Any]) -> Callable[[], Any]:
        outcome: list[tuple[Any, BaseException | None]] = []

        def run() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def result() -> Any:
            thread.join(DEADLINE)
            assert outcome, "it hangs"
            value, error = outcome[0]
            if error is not None:
                raise error
            return value

        return result

    return start


def namespaces(pid: int) -> dict[str, int]:
    """The namespaces of a process by kind, as the inodes that name them."""
    found = {}
    for kind in ("pid", "mnt", "net", "ipc", "uts"):
        found[kind] = int(re.findall(r"\d+", os.readlink(f"/proc/{pid}/ns/{kind}"))[0])
    return found


class Census:
    """Which processes there are, and in which namespaces: what is left of a container shows here."""

    def processes_in(self, kind: str, inode: int) -> list[int]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/{kind}") == f"{kind}:[{inode}]" and not self._is_zombie(pid):
                    found.append(int(pid))
            except OSError:  # gone, or not ours to look at
                continue
        return found

    def holders_of(self, kind: str, inode: int) -> list[str]:
        """Descriptors of processes that keep a namespace alive."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    path = f"/proc/{pid}/fd/{fd}"
                    if os.readlink(path) == f"{kind}:[{inode}]":
                        found.append(path)
            except OSError:
                continue
        return found

    def mounts_of(self, text: str) -> list[str]:
        """Processes that see a mount whose line holds ``text``."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/mountinfo") as file:
                    if text in file.read():
                        found.append(pid)
            except OSError:
                continue
        return found

    def of(self, pid: int) -> dict[str, int]:
        return namespaces(pid)

    @staticmethod
    def _is_zombie(pid: str) -> bool:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"


@pytest.fixture(scope="session")
def census() -> Census:
    return Census()
