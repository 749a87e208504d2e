"""Build steps carried out in containers: the engine's side of ``build.steps.Workshop``.

A step's container has its writable layer on the store's own disk, so that when the container is gone the layer is
there, and becomes one of the store's by a rename.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_capsule import mounts
from pytest_capsule._linux import capabilities, channel
from pytest_capsule.archive import xattrs
from pytest_capsule.build.folders import Status
from pytest_capsule.build.steps import Command
from pytest_capsule.errors import CommandNotFound
from pytest_capsule.locations import host_resolv_conf
from pytest_capsule.network import names
from pytest_capsule.runtime.container import Container
from pytest_capsule.runtime.logs import LogPump
from pytest_capsule.runtime.process import DEVNULL, PIPE, STDOUT
from pytest_capsule.runtime.spec import RuntimeSpec, VolumeMount
from pytest_capsule.runtime.supervisor import Supervisor
from pytest_capsule.stacking import Stacking
from pytest_capsule.store.image import Tree
from pytest_capsule.store.store import Store

_UNPACKER = "pytest_capsule.archive.unpack"
_NOBODY = 65534  # what the kernel shows for an id that is not mapped: overflowuid


class ContainerWorkshop:
    """Runs the steps of one build in containers of one supervisor."""

    def __init__(self, supervisor: Supervisor, store: Store, pump: LogPump, stacking: Stacking) -> None:
        self._supervisor = supervisor
        self._store = store
        self._pump = pump
        self._stacking = stacking
        self._lock = threading.Lock()
        self._open: set[Container] = set()
        self._canceled = False

    def cancel(self) -> None:
        """End the containers of all steps; those that come later end at once."""
        with self._lock:
            self._canceled = True
            for container in self._open:
                container.end()

    def run(self, tree: Tree, scratch: Path, command: Command, output: Callable[[str], None]) -> int:
        """RUN, on the host's network unless told otherwise."""
        volumes = []
        for number, (path, text) in enumerate(command.scripts.items()):
            script = scratch / f"script{number}"
            script.write_bytes(text.encode("utf-8", "surrogateescape"))
            script.chmod(0o755)
            volumes.append(VolumeMount(path, str(script), read_only=True))
        isolated = command.network == "none"
        spec = RuntimeSpec(
            overlays=self._stacking.to_write(tree, self._store.blank, scratch),
            hostname=command.hostname,
            env=command.env,
            user=command.user,
            workdir=command.workdir,
            files={
                "/etc/hosts": names.hosts([names.HostEntry("127.0.0.1", (command.hostname,))]),
                "/etc/resolv.conf": names.resolv_conf(None if isolated else host_resolv_conf()),
            },
            volumes=tuple(volumes),
            mounts=mounts.in_container(command.mounts, self._store, scratch),
            host_network=not isolated,
            isolated=isolated,
            privileged=command.privileged,
            capabilities=frozenset(capabilities.NAMES) if command.privileged else capabilities.DEFAULT,
            feigns_root=self._supervisor.ids.kind == "single",
        )
        with self._container(spec) as container, mounts.relayed(command.mounts, container):
            try:
                code = _stream(container, command.argv, output)
            except CommandNotFound as error:
                output(f"{error.message}\n")
                code = error.exit_code
            if command.mounts:
                mounts.sweep(container)
            if spec.feigns_root and command.user:
                added = [change.path for change in container.diff() if change.kind == "A"]
                container.claim(added, user=command.user)
            self._stacking.gather(container, scratch)
        self._stacking.settle(tree, scratch)
        return code

    def place(self, tree: Tree, scratch: Path, message: dict[str, Any], roots: Sequence[int]) -> list[str]:
        """COPY and ADD; returns what the image lacks to know the owner."""
        unpacks = any(source["unpack"] for source in message["sources"])
        with self._container(self._bare(tree, scratch, modules=(_UNPACKER,) if unpacks else ())) as container:
            lacks = container.place(message, roots)
            self._stacking.gather(container, scratch)
        self._stacking.settle(tree, scratch)
        return lacks

    def make_directory(self, tree: Tree, scratch: Path, path: str, user: str) -> list[str]:
        """WORKDIR; returns what the image lacks to know the owner."""
        with self._container(self._bare(tree, scratch)) as container:
            lacks = container.make_directory(path, user=user)
            self._stacking.gather(container, scratch)
        self._stacking.settle(tree, scratch)
        return lacks

    @contextlib.contextmanager
    def open_tree(self, tree: Tree) -> Iterator[TreeFolder]:
        """The files of a tree, for COPY --from."""
        with contextlib.ExitStack() as disk, contextlib.ExitStack() as used:
            spec = RuntimeSpec(
                overlays=self._stacking.to_read(tree, disk), bare=True, capabilities=capabilities.DEFAULT
            )
            container = used.enter_context(self._container(spec))
            kind = self._supervisor.ids.kind
            foreign = kind == "single" or (kind == "range" and bool(tree.host_directories))
            yield TreeFolder(container, foreign=foreign, recorded=kind == "single")

    def _bare(self, tree: Tree, scratch: Path, modules: tuple[str, ...] = ()) -> RuntimeSpec:
        return RuntimeSpec(
            overlays=self._stacking.to_write(tree, self._store.empty, scratch),
            bare=True,
            modules=modules,
            capabilities=capabilities.DEFAULT,
        )

    @contextlib.contextmanager
    def _container(self, spec: RuntimeSpec) -> Iterator[Container]:
        with Container(self._supervisor, spec, id="build", name="build", pump=self._pump) as container:
            with self._lock:
                self._open.add(container)
                if self._canceled:
                    container.end()
            try:
                container.ready()
                yield container
            finally:
                with self._lock:
                    self._open.discard(container)


class TreeFolder:
    """The files of a tree as its own root sees them, with the ids that count there: ``build.folders.Folder``.

    ``foreign``: what belongs to nobody there is the host's, and is to be root's where it is copied to. ``recorded``:
    owners may be those of records (``_linux.ownership``).
    """

    def __init__(self, container: Container, *, foreign: bool, recorded: bool) -> None:
        self._container = container
        self._recorded = recorded
        self._owners = {_NOBODY: 0} if foreign else {}

    def entries(self, path: str) -> list[tuple[str, Status]]:
        """What lies in a directory: name and ``lstat``, sorted by name."""
        message = {"op": "list", "path": f"/{path}", "recorded": self._recorded}
        listed = channel.call(self._container.requests, message)[0]["entries"]
        return [(entry["name"], self._status(entry)) for entry in listed]

    def status(self, path: str) -> Status:
        """``lstat``."""
        message = {"op": "stat", "path": f"/{path}", "follow": False, "recorded": self._recorded}
        return self._status(channel.call(self._container.requests, message)[0]["stat"])

    def target(self, path: str) -> str:
        """Where a symlink points."""
        target: str = channel.call(self._container.requests, {"op": "link", "path": f"/{path}"})[0]["target"]
        return target

    def open(self, path: str) -> int:
        """A descriptor of a file, to be read."""
        message = {"op": "open", "path": f"/{path}", "flags": os.O_RDONLY | os.O_NOFOLLOW, "mode": 0}
        return channel.call(self._container.requests, message)[1][0]

    def attributes(self, path: str) -> dict[str, bytes]:
        """The extended attributes of a directory that a copy of it has too."""
        fd = self.open(path)
        try:
            return xattrs.read(fd)
        finally:
            os.close(fd)

    def open_root(self) -> int:
        """A descriptor (``O_PATH``) of the root directory."""
        return self._container.open_root()

    def _status(self, entry: dict[str, Any]) -> Status:
        return Status(
            st_mode=entry["mode"],
            st_uid=self._owners.get(entry["uid"], entry["uid"]),
            st_gid=self._owners.get(entry["gid"], entry["gid"]),
            st_size=entry["size"],
            st_mtime_ns=entry["mtime_ns"],
            st_rdev=entry["rdev"],
            st_dev=entry["dev"],
            st_ino=entry["ino"],
            st_nlink=entry["nlink"],
        )


def _stream(container: Container, argv: Sequence[str], output: Callable[[str], None]) -> int:
    """Run a command and hand its output over as it comes, both streams in one, until the command has ended."""
    process = container.popen(argv, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=False)
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    with selectors.PollSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(process, selectors.EVENT_READ)
        while process.poll() is None:
            for key, _ in selector.select():
                if key.fd == pipe and not _pass_on(pipe, output):
                    selector.unregister(pipe)
    _pass_on(pipe, output)
    code = process.exit_code
    process.close()
    assert code is not None
    return code


def _pass_on(pipe: int, output: Callable[[str], None]) -> bool:
    while True:
        try:
            data = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        output(data.decode("utf-8", "replace"))
