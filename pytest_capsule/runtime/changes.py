"""``docker diff``: what a writable layer says against the layers below it."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Change:
    """One line of ``docker diff``: ``kind`` is ``A`` (added), ``C`` (changed) or ``D`` (deleted)."""

    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


def classify(entries: Iterable[Mapping[str, str]], lowers: Mapping[str, Sequence[str]]) -> list[Change]:
    """Changes, by path, from the raw entries of the writable layer (``runtime.files.changes``).

    ``lowers`` maps the mount point of each overlay to its layers, topmost first, as paths on the host.
    """
    found = []
    entries = list(entries)
    written = {entry["path"] for entry in entries}
    for entry in entries:
        path, kind = entry["path"], entry["kind"]
        below = _exists_below(path, lowers)
        if kind == "whiteout":
            if below:
                found.append(Change("D", path))
            continue
        found.append(Change("C" if below else "A", path))
        if kind == "opaque" and below:  # made anew in the place of one that was removed
            hidden = (f"{path}/{name}" for name in _names_below(path, lowers))
            found += [Change("D", inner) for inner in hidden if inner not in written]
    return sorted(found, key=lambda change: change.path)


def classify_plain(entries: Iterable[Mapping[str, str]], lowers: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """``classify`` with plain values, for ``runtime.worker``."""
    return [(change.kind, change.path) for change in classify(entries, lowers)]


def _names_below(path: str, lowers: Mapping[str, Sequence[str]]) -> list[str]:
    """The names that the layers below show in a directory."""
    mount = max((point for point in lowers if _is_under(path, point)), key=len)
    names: set[str] = set()
    for layer in lowers[mount]:
        with contextlib.suppress(OSError):
            names.update(os.listdir(layer + path[len(mount.rstrip("/")) :]))
    return sorted(name for name in names if _exists_below(f"{path}/{name}", lowers))


def _exists_below(path: str, lowers: Mapping[str, Sequence[str]]) -> bool:
    mount = max((point for point in lowers if _is_under(path, point)), key=len)
    parts = [part for part in path[len(mount.rstrip("/")) :].split("/") if part]
    for layer in lowers[mount]:
        found = _find(layer, parts)
        if found is not None:
            return found
    return False


def _is_under(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(point + "/")


def _find(layer: str, parts: Sequence[str]) -> bool | None:
    """Whether the path exists as far as this layer decides; ``None`` leaves it to the layers below."""
    here, opaque = layer, False
    for index, part in enumerate(parts):
        here = f"{here}/{part}"
        try:
            info = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return False if opaque else None
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            return False
        if index == len(parts) - 1:
            return True
        if not stat.S_ISDIR(info.st_mode):
            return False
        opaque = opaque or _is_opaque(here)
    return True


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, "user.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False
