"""What living engines use: nothing of it is removed, whoever cleans up.

An engine puts a name into its own folder for everything that the store hands out to it. Taking a name and removing what
has none both happen under one lock, so nothing goes between the moment it was found and the moment it was claimed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock


class Claims:
    """The names that one engine has claimed, in the folder ``own``; ``tmp`` holds the folders of all engines."""

    def __init__(self, tmp: Path, own: Path, lock: Path) -> None:
        self._tmp = tmp
        self._folder = own / "claims"
        self._folder.mkdir()
        self._names: set[str] = set()
        self._at_work = 0
        self._threads = threading.Lock()
        self._processes = FileLock(lock, mode=0o600, thread_local=False)

    def take(self, names: Iterable[str]) -> list[str]:
        """Claim what is not claimed yet, and return it."""
        fresh = [name for name in names if name not in self._names]
        if fresh:
            with self.held():
                for name in fresh:
                    (self._folder / name).touch()
                self._names.update(fresh)
        return fresh

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, nobody claims anything and nobody else removes what is not claimed."""
        with self._threads, self._processes:
            yield

    def of_others(self) -> set[str]:
        """What other engines have claimed; to be asked while the lock is held."""
        found: set[str] = set()
        for folder in self._tmp.glob("*/claims"):
            if folder != self._folder:
                with contextlib.suppress(FileNotFoundError):  # that engine has just ended
                    found.update(path.name for path in folder.iterdir())
        return found

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While the block runs, this engine needs all that it has claimed: it builds, or brings in an image."""
        with self._threads:
            self._at_work += 1
        try:
            yield
        finally:
            with self._threads:
                self._at_work -= 1

    def needed(self) -> frozenset[str]:
        """What this engine has claimed and needs now, containers apart; to be asked while the lock is held."""
        return frozenset(self._names) if self._at_work else frozenset()

    def drop(self, names: Iterable[str]) -> None:
        """Forget what is gone from the store."""
        for name in self._names.intersection(names):
            (self._folder / name).unlink(missing_ok=True)
            self._names.discard(name)
