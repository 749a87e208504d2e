"""The folders of ``RUN --mount=type=cache``: they stay from build to build, and are lent to one step or to several."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from typing import TYPE_CHECKING

from pytest_capsule.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST = 1000  # folders of one private cache
_RETIRED = "retired"  # beside what a cache holds: whoever uses the folder goes on, and nobody else begins to


class Caches:
    """All caches of a store. Each has a folder for every step that used it at the same time as others did not share.

    A folder that is in use is locked, by the kernel and for as long as the process lives. ``flock(2)`` and not
    ``filelock``, which knows no lock that several hold.
    """

    def __init__(self, root: Path, *, anew: bool = False) -> None:
        """With ``anew``, each cache begins anew when it is first lent, as all of a build without cache do."""
        self._root = root
        self._anew = anew
        self._begun: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lend(self, name: str, sharing: str, trash: Path) -> Iterator[Path]:
        """A folder of the cache ``name``, to be used until the block ends; ``trash`` gets what nobody is to use again.

        ``sharing`` is BuildKit's (``solver/llbsolver/mounts``): ``locked`` waits until nobody else uses the cache,
        ``shared`` takes what others share, and ``private`` one that nobody uses; both make one more rather than wait.
        """
        with self._lock:
            if self._anew and name not in self._begun:
                self._begun.add(name)
                self._retire(name, trash)
        operation = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        for folder in self._candidates(name, trash):
            held = _lock(folder, operation if sharing == "locked" else operation | fcntl.LOCK_NB)
            if held is None:
                continue
            try:
                if not _is_retired(folder):  # it may have been while its lock was waited for
                    os.utime(held)  # when it was last lent is what decides about its end
                    yield folder
                    return
            finally:
                os.close(held)
        raise StoreError(f"{_MOST} steps use the cache {name} at once", path=str(self._root / name))

    def _candidates(self, name: str, trash: Path) -> Iterator[Path]:
        """Folders to try: those that are there, so that what one of them holds is found again, and then new ones."""
        there = sorted((self._root / name).glob("*"), key=lambda folder: int(folder.name))
        used = [folder for folder in there if not (_is_retired(folder) and remove(folder, trash))]
        yield from (folder for folder in used if not _is_retired(folder))
        new = (self._root / name / str(number) for number in range(_MOST))
        yield from (folder for folder in new if folder not in used)

    def _retire(self, name: str, trash: Path) -> None:
        """Let a cache begin anew for all who are lent it from now on (``PruneCacheMounts`` of BuildKit's worker)."""
        for folder in self._root.glob(f"{name}/*"):
            with contextlib.suppress(FileNotFoundError):  # somebody else has taken it away
                if not remove(folder, trash):
                    (folder / _RETIRED).touch()

    def folders(self) -> list[Path]:
        """Those of all caches; each was changed when it was last lent."""
        return sorted(self._root.glob("*/*"))


def _is_retired(folder: Path) -> bool:
    return (folder / _RETIRED).exists()


def is_lent(folder: Path) -> bool:
    """Whether a step uses a folder now."""
    held = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if held is not None:
        os.close(held)
    return held is None


def remove(folder: Path, trash: Path) -> bool:
    """Move a folder to ``trash``, unless a step uses it now."""
    held = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if held is None:
        return False
    try:
        os.rename(folder, trash / f"cache-{secrets.token_hex(8)}")
    finally:
        os.close(held)
    return True


def _lock(folder: Path, operation: int) -> int | None:
    """A descriptor that holds the lock of a folder, which is made; ``None`` where another holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, operation)
            with contextlib.suppress(FileNotFoundError):  # it may have been removed while the lock was waited for
                if os.path.samestat(folder.stat(), os.fstat(fd)):
                    return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
