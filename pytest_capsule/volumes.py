"""Volumes: what containers keep outside their writable layers, and the texts by which a spec asks for it.

The forms are those of ``docker run -v``: a folder or file of the host, a named volume that several containers share, or
one of the container's own that begins with what the image has there.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_capsule.errors import UsageError
from pytest_capsule.runtime.spec import VolumeMount

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_capsule.spec import ContainerSpec

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
# The last mean nothing here: labels of SELinux, which confines none of our containers, and words for Docker on a Mac.
_MODES = ("rw", "ro", "nocopy", "z", "Z", "consistent", "cached", "delegated")
_TMPFS_WORDS = ("rw", "ro", "exec", "noexec", "nosuid", "nodev")
_TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes")
_EXAMPLE = 'for example "./data:/data:ro", "name:/data" or "/data"'


class Volume:
    """A folder that containers share: ``Engine.volume()`` in ``volumes=``, beside what it is mounted at.

    It begins with what the first container's image has there, and is gone when it is closed, or with the engine.
    ``name`` stands for it in texts such as ``"name:/data:ro"``; ``path`` is where its files are on the host, which
    without root may belong to ids that are not this user's.
    """

    def __init__(self, name: str, folder: contextlib.AbstractContextManager[Path]) -> None:
        self.name = name
        self._closing = contextlib.ExitStack()
        self.path = self._closing.enter_context(folder) / "data"
        self.path.mkdir()
        self.path.chmod(0o755)

    def close(self) -> None:
        """Remove it with all its files; a container that still has it sees an empty folder."""
        self._closing.close()

    def __enter__(self) -> Volume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Volume {self.name}>"


class Volumes:
    """The volumes of a scope by name: an engine's, or those of one test, which also sees the engine's.

    What it has made is gone when it is closed.
    """

    def __init__(
        self, scratch: Callable[[], contextlib.AbstractContextManager[Path]], outer: Volumes | None = None
    ) -> None:
        self._scratch = scratch
        self._outer = outer
        self._lock = threading.Lock()
        self._volumes: dict[str, Volume] = {}

    def obtain(self, name: str | None = None) -> Volume:
        """The volume of that name, made if there is none; without a name a new one."""
        name = secrets.token_hex(6) if name is None else name
        if not is_name(name):
            raise UsageError(f"{name!r} is no name for a volume", hint="letters, digits, and then also _ . -")
        with self._lock:
            found = self._find(name)
            if found is None:
                found = self._volumes[name] = Volume(name, self._kept(name))
            return found

    def _find(self, name: str) -> Volume | None:
        return self._volumes.get(name) or (None if self._outer is None else self._outer._find(name))

    @contextlib.contextmanager
    def _kept(self, name: str) -> Iterator[Path]:
        with self._scratch() as folder:
            yield folder
            self._volumes.pop(name, None)

    def close(self) -> None:
        """Remove them all."""
        for volume in list(self._volumes.values()):
            volume.close()

    def __enter__(self) -> Volumes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One volume that a spec asks for: with no ``source`` one of the container's own."""

    source: str | os.PathLike[str] | Volume | None
    target: str
    modes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.target, ",".join(self.modes)) if part)


def is_name(text: str) -> bool:
    """Whether the source of a volume is a name, and no path."""
    return bool(_NAME.fullmatch(text))


def mounts_of(
    spec: ContainerSpec, declared: Sequence[str], folders: Sequence[Path], volumes: Volumes
) -> tuple[VolumeMount, ...]:
    """What a spec's ``volumes`` and ``tmpfs`` and the image's ``declared`` ones (VOLUME) mean, outer before inner.

    Relative paths start from ``folders``, the first that has them; named volumes are looked up in ``volumes``.
    """
    given = spec.volumes.items() if isinstance(spec.volumes, Mapping) else spec.volumes
    found = {mount.target: mount for mount in (_mount(_wanted(one), folders, volumes) for one in given)}
    tmpfs = spec.tmpfs.items() if isinstance(spec.tmpfs, Mapping) else (text.partition(":")[::2] for text in spec.tmpfs)
    found |= {mount.target: mount for mount in (_tmpfs(target, options) for target, options in tmpfs)}
    for path in declared:
        target = _target(path, f"VOLUME {path} of the image")
        found.setdefault(target, VolumeMount(target, own=True))
    return tuple(sorted(found.values(), key=lambda mount: mount.target.count("/")))


def find_path(path: str | os.PathLike[str], folders: Sequence[Path]) -> Path:
    """A path that a marker names: absolute, or relative to the first of ``folders`` that has it."""
    for folder in folders:
        if (folder / path).exists():
            return folder / path
    return folders[0] / path if folders else Path(path)


def _wanted(given: Any) -> _Wanted:
    """One element of ``volumes``: a text, or a source and what it is mounted at."""
    if isinstance(given, str):
        parts = given.split(":")
        source, target, modes = (None, parts[0], "") if len(parts) == 1 else (*parts[:2], ":".join(parts[2:]))
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str):
        source = given[0]
        target, _, modes = given[1].partition(":")
    else:
        raise UsageError(f"volume {given!r}: it is a text, or a pair of source and target", hint=_EXAMPLE)
    if not (source is None or isinstance(source, (str, os.PathLike, Volume))) or source == "":
        raise UsageError(f"volume {given!r}: {source!r} is neither a path, a name nor a Volume", hint=_EXAMPLE)
    return _Wanted(source, target, tuple(word for word in modes.split(",") if word))


def _mount(wanted: _Wanted, folders: Sequence[Path], volumes: Volumes) -> VolumeMount:
    if not wanted.target.startswith("/"):
        raise UsageError(f"volume {wanted}: the target is an absolute path", hint=_EXAMPLE)
    target = _target(wanted.target, f"volume {wanted}")
    if unknown := [mode for mode in wanted.modes if mode not in _MODES]:
        raise UsageError(f"volume {wanted}: {unknown[0]!r} is no mode", hint=f"it is one of {', '.join(_MODES)}")
    read_only = "ro" in wanted.modes
    if wanted.source is None:
        return VolumeMount(target, own=True, read_only=read_only)
    fill = "nocopy" not in wanted.modes
    if isinstance(wanted.source, Volume):
        return VolumeMount(target, str(wanted.source.path), read_only=read_only, fill=fill)
    if isinstance(wanted.source, str) and is_name(wanted.source):
        return VolumeMount(target, str(volumes.obtain(wanted.source).path), read_only=read_only, fill=fill)
    path = find_path(Path(wanted.source).expanduser(), folders).absolute()
    if not path.exists():
        raise UsageError(f"volume {wanted}: {path} does not exist")
    return VolumeMount(target, str(path), read_only=read_only)


def _tmpfs(target: str, options: str | None) -> VolumeMount:
    """Docker's ``--tmpfs``: noexec, nosuid and nodev unless the options say otherwise."""
    if not target.startswith("/"):
        raise UsageError(f"tmpfs {target!r}: it is an absolute path")
    words = [word for word in (options or "").split(",") if word]
    values = dict(word.split("=", 1) for word in words if "=" in word)
    unknown = [word for word in words if "=" not in word and word not in _TMPFS_WORDS]
    unknown += [key for key in values if key not in _TMPFS_VALUES]
    if unknown:
        raise UsageError(f"tmpfs {target}:{options}: no such option: {unknown[0]}")
    place = _target(target, f"tmpfs {target}")
    return VolumeMount(place, no_exec="exec" not in words, read_only="ro" in words, options=values)


def _target(path: str, subject: str) -> str:
    """Where a volume is mounted: not over everything, and not over what the kernel shows (runc refuses both)."""
    target = "/" + posixpath.normpath(f"/{path}").lstrip("/")  # two slashes at the beginning are two to normpath
    if target == "/" or f"{target}/".startswith("/proc/"):
        raise UsageError(f"{subject}: the target cannot be {'/' if target == '/' else '/proc or in it'}")
    return target
