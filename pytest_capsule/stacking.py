"""How layers become a root filesystem on this host: an overlay where it can be, else a copy, slower and never wrong.

A container that runs something has its writable layer in memory. A step of a build, and a container that is to be
kept, has it on the store's disk, where it becomes a layer by a rename. Where the kernel refuses one of the two (tmpfs
before Linux 6.6 keeps no attributes of users; inside Docker the disk is an overlay itself, on which no other can
write), the other serves both. Where it refuses both, layers are copied. What works is found out by doing it, once for
each boot, and remembered in the store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_capsule.errors import ASK_THE_CHECK, UnsupportedHost
from pytest_capsule.runtime.spec import Overlay
from pytest_capsule.store.image import visible
from pytest_capsule.store.rootfs import lower_directories

if TYPE_CHECKING:
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.worker import Worker
    from pytest_capsule.store.image import Tree
    from pytest_capsule.store.store import Store

_MEMORY = "stacking"
_CALLS = ("overlay", "fsopen", "fsconfig", "fsmount")


@dataclass(frozen=True, slots=True)
class Overlays:
    """Where an overlay's writable layer can be."""

    in_memory: bool = True
    on_disk: bool = True


@dataclass(frozen=True, slots=True)
class Writable:
    """The folder on the store's disk in which a container writes; ``disk`` removes it when the container is closed."""

    folder: Path
    disk: contextlib.ExitStack


class Stacking:
    """Puts the trees of one store together, for containers that run something and for steps that write a layer."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self._store = store
        self._worker = worker
        self._lock = threading.Lock()
        self._known: Overlays | None = None
        self._in_memory: dict[Tree, tuple[Overlay, ...]] = {}

    def overlays(self) -> Overlays:
        """What this host can do, tried now if it was not since it has booted."""
        with self._lock:
            if self._known is None:
                boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
                remembered = self._store.memory(_MEMORY)
                if remembered.get("boot") != boot:
                    remembered = {"boot": boot, **asdict(Overlays(self._works(True), self._works(False)))}
                    self._store.remember(_MEMORY, remembered)
                self._known = Overlays(remembered["in_memory"], remembered["on_disk"])
            return self._known

    def _works(self, in_memory: bool) -> bool:
        with self._store.scratch() as folder:
            try:
                self._worker.call("pytest_capsule.runtime.probes", "overlay", str(folder), in_memory)
            except OSError as error:
                call = str(error.filename or "")
                if not any(word in call for word in _CALLS):  # it was not overlay that failed
                    raise UnsupportedHost(
                        "containers cannot be set up on this host",
                        syscall=call,
                        errno=error.errno or 0,
                        hint=ASK_THE_CHECK,
                    ) from None
                return False
        return True

    def to_run(self, tree: Tree, undo: contextlib.ExitStack) -> tuple[Overlay, ...]:
        """For a container that runs something; what it needs on disk is removed by ``undo``."""
        found = self.overlays()
        if found.in_memory:
            if tree not in self._in_memory:  # a layer never changes, so neither does what is found of it
                self._in_memory[tree] = self._stacked(tree, self._store.blank, None)
            return self._in_memory[tree]
        scratch = undo.enter_context(self._store.scratch())
        return self._stacked(tree, self._store.blank, scratch, copied=not found.on_disk)

    def to_read(self, tree: Tree, undo: contextlib.ExitStack) -> tuple[Overlay, ...]:
        """For one that is only looked into."""
        found = self.overlays()
        scratch = None if found.in_memory else undo.enter_context(self._store.scratch())
        return self._stacked(tree, self._store.empty, scratch, copied=not (found.in_memory or found.on_disk))

    def to_write(self, tree: Tree, bottom: Path, scratch: Path) -> tuple[Overlay, ...]:
        """For what becomes a layer, which is at ``scratch / "fs"`` when it was gathered and the container is closed and
        settled; ``bottom`` lies below all layers.
        """
        found = self.overlays()
        if found.on_disk or not found.in_memory:
            return self._stacked(tree, bottom, scratch, copied=not found.on_disk)
        return self._stacked(tree, bottom, None)

    def gather(self, container: Container, scratch: Path) -> None:
        """Bring to ``scratch / "fs"`` what a container has written elsewhere; before it is closed."""
        (first, *_) = container.spec.overlays
        if self.overlays().on_disk or (first.copied and first.lowers == (str(self._store.empty),)):
            return
        layer = scratch / "fs"
        if layer.exists():
            layer.rename(scratch / "copy")
        layer.mkdir(mode=0o755)
        layer.chmod(0o755)
        directory = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            container.export(directory)
        finally:
            os.close(directory)

    def settle(self, tree: Tree, scratch: Path) -> None:
        """Move what was written beneath each of the host's directories to its place in the one new layer; when the
        container is closed.
        """
        layer = scratch / "fs"
        for number, directory in enumerate(tree.host_directories, 1):
            written = scratch / f"fs{number}"
            if not written.exists() or not any(written.iterdir()):  # what was in memory is in its place already
                continue
            here = layer
            for part in Path(directory).parent.parts[1:]:
                here = here / part
                if here.is_symlink():  # what was put there could lead anywhere on this machine
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), f"/{here.relative_to(layer)}")
                if not here.exists():
                    here.mkdir()
                    here.chmod(_mode_below(tree, f"/{here.relative_to(layer)}"))
            os.rename(written, f"{layer}{directory}")

    def _stacked(self, tree: Tree, bottom: Path, folder: Path | None, *, copied: bool = False) -> tuple[Overlay, ...]:
        if copied and tree.host_directories:
            raise UnsupportedHost(
                f"{', '.join(tree.host_directories)} of this machine cannot be shown: no overlay can be mounted here, "
                "and they are too large to be copied",
                syscall="fsconfig overlay",
                hint="begin with another image than capsule/host, or see what capsule check says of overlays",
            )
        found = []
        for number, (target, lowers) in enumerate(lower_directories(tree, bottom).items()):
            suffix = str(number or "")
            upper, work = (None, None) if folder is None else (f"{folder}/fs{suffix}", f"{folder}/work{suffix}")
            found.append(Overlay(target, lowers, upper, work, copied))
        return tuple(found)


def _mode_below(tree: Tree, path: str) -> int:
    """The mode of a directory as the layers show it: a new one above them must not change it."""
    for layer in visible(tree.layers):
        with contextlib.suppress(OSError):
            return stat.S_IMODE(os.lstat(layer.path + path).st_mode)
    return 0o755
