"""The folders of ``RUN --mount=type=cache``: they stay from build to build, and are lent to one step or to several."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from pytest_capsule.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST = 1000  # folders of one private cache


class Caches:
    """All caches of a store. Each has a folder for every step that used it at the same time as others did not share.

    A folder that is in use is locked, by the kernel and for as long as the process lives. ``flock(2)`` and not
    ``filelock``, which knows no lock that several hold.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def lend(self, name: str, sharing: str) -> Iterator[Path]:
        """A folder of the cache ``name``, to be used until the block ends.

        ``sharing`` is BuildKit's (``solver/llbsolver/mounts``): ``locked`` waits until nobody else uses the cache,
        ``shared`` takes what others share, and ``private`` one that nobody uses; both make one more rather than wait.
        """
        operation = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        for number in range(_MOST):
            folder = self._root / name / str(number)
            held = _lock(folder, operation if sharing == "locked" else operation | fcntl.LOCK_NB)
            if held is not None:
                try:
                    os.utime(held)  # when it was last lent is what decides about its end
                    yield folder
                finally:
                    os.close(held)
                return
        raise StoreError(f"{_MOST} steps use the cache {name} at once", path=str(self._root / name))

    def folders(self) -> list[Path]:
        """Those of all caches; each was changed when it was last lent."""
        return sorted(self._root.glob("*/*"))


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
