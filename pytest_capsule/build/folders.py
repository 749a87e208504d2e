"""Where the files of a COPY lie: a folder of the host, or the tree of an image, which only its own ids may read."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_capsule.archive import xattrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Status:
    """The part of ``os.stat_result`` that a copy needs, for what is not on the host."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_size: int
    st_mtime_ns: int
    st_rdev: int
    st_dev: int
    st_ino: int
    st_nlink: int
    st_ctime_ns: int = 0


class Folder(Protocol):
    """Paths are relative to its root, ``""`` is the root itself; no call follows a symlink in the last place."""

    def entries(self, path: str) -> Iterable[tuple[str, os.stat_result | Status]]:
        """What lies in a directory: name and ``lstat``, sorted by name."""

    def status(self, path: str) -> os.stat_result | Status:
        """``lstat``."""

    def target(self, path: str) -> str:
        """Where a symlink points."""

    def open(self, path: str) -> int:
        """A descriptor of a file, to be read."""

    def attributes(self, path: str) -> dict[str, bytes]:
        """The extended attributes of a directory that a copy of it has too."""

    def open_root(self) -> int:
        """A descriptor (``O_PATH``) of the root directory."""


class HostFolder:
    """A folder of the host. What its ``OSError`` names is relative to it too."""

    def __init__(self, root: str) -> None:
        self.root = root

    def entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """What lies in a directory: name and ``lstat``, sorted by name."""
        with self._named(path):
            directory = os.open(self._at(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        found, name = [], ""
        try:  # each is asked for from its directory: a large context has many, and their paths are long
            with os.scandir(directory) as entries:
                for entry in sorted(entries, key=_name):
                    name = entry.name
                    found.append((name, entry.stat(follow_symlinks=False)))
        except OSError as error:
            error.filename = f"{path}/{name}" if path else name
            raise
        finally:
            os.close(directory)
        return found

    def status(self, path: str) -> os.stat_result:
        """``lstat``."""
        with self._named(path):
            return os.lstat(self._at(path))

    def target(self, path: str) -> str:
        """Where a symlink points."""
        with self._named(path):
            return os.readlink(self._at(path))

    def open(self, path: str) -> int:
        """A descriptor of a file, to be read."""
        with self._named(path):
            return os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def attributes(self, path: str) -> dict[str, bytes]:
        """The extended attributes of a directory that a copy of it has too."""
        with self._named(path):
            return xattrs.read(self._at(path))

    def open_root(self) -> int:
        """A descriptor (``O_PATH``) of the root directory."""
        return os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = path
            raise


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
