"""``RUN --mount``: what each mount is, what of it the cache key takes, and how it is made ready for the command.

Source: BuildKit, ``dockerfile2llb/convert_runmount.go`` and ``solver/llbsolver/mounts``. The key takes what a mount is,
and of a bind mount what is in it, but never what a secret is or a cache holds.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pytest_capsule.build import steps
from pytest_capsule.build.context import SUBTREE, Context, Entry, Source
from pytest_capsule.build.execution import StepFailed, root_key, step_key
from pytest_capsule.build.folders import HostFolder
from pytest_capsule.build.parts import ContextFiles, Part, Piece, TreeFiles
from pytest_capsule.build.secrets import DEFAULT_AGENT, read_secret
from pytest_capsule.store.image import Layer, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_capsule.build.stage import Surroundings
    from pytest_capsule.dockerfile import instructions as ins
    from pytest_capsule.dockerfile.mounts import Mount

_SECRETS = "/run/secrets"
_AGENT_SOCKET = "/run/buildkit/ssh_agent.{}"
_AGENT_VARIABLE = "SSH_AUTH_SOCK"
_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"  # a build argument that goes before the id of each cache


class RunMounts:
    """The mounts of one RUN. ``DockerfileError`` for a source that is not there or a target that cannot be meant."""

    def __init__(self, instruction: ins.Run, around: Surroundings, workdir: str) -> None:
        self._around = around
        run = _Run(instruction, around, workdir)
        self._plans = [_KINDS[mount.type](mount, run) for mount in instruction.mounts]

    def inputs(self) -> list[Any]:
        """What the cache key takes."""
        return [plan.inputs() for plan in self._plans]

    @contextlib.contextmanager
    def opened(self, scratch: Path) -> Iterator[Ready]:
        """The mounts, ready for as long as the block goes on; ``StepFailed`` for a secret or agent that is missing."""
        with contextlib.ExitStack() as held:
            ready = Ready(held, self._around, scratch)
            for plan in sorted(
                self._plans, key=lambda plan: plan.waits_for
            ):  # in one order, so that none waits for ever
                plan.make_ready(ready)
            ready.mounts.sort(key=lambda mount: mount.target.count("/"))
            yield ready


@dataclass
class Ready:
    """The mounts that are ready by now, and the variables that come with them; ``held`` ends with the step."""

    held: contextlib.ExitStack
    around: Surroundings
    scratch: Path
    mounts: list[steps.Mount] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    """Variables that the stage's own go before."""
    _lent: dict[str, Path] = field(default_factory=dict)

    def cache(self, name: str, sharing: str) -> Path:
        """The folder of a cache, the same one for all mounts of this step."""
        if name not in self._lent:
            self._lent[name] = self.held.enter_context(self.around.caches.lend(name, sharing, self.scratch))
        return self._lent[name]

    def placed(self, part: Part) -> Path:
        """A new folder with the one source of a part in it, in overlay form, called ``SUBTREE``."""
        folder = self.scratch / f"placed{len(os.listdir(self.scratch))}"
        folder.mkdir()
        with contextlib.ExitStack() as opened:
            (piece,) = part.pieces(opened, folder)
            root = piece.context.folder.open_root()
            opened.callback(os.close, root)
            source = {
                "root": 0,
                "name": "",
                "directory": True,
                "unpack": False,
                "entries": [entry.message() for entry in piece.source.entries],
            }
            self.around.workshop.place(Tree(), folder, {"dest": "/", "user": None, "sources": [source]}, [root])
        return folder / "fs"


@dataclass
class _Run:
    """The instruction that mounts belong to."""

    instruction: ins.Run
    around: Surroundings
    workdir: str
    agents: int = 0

    def target(self, mount: Mount) -> str:
        """Where a mount is to be seen: relative to the working directory."""
        path = posixpath.normpath(posixpath.join("/", self.workdir, mount.target))
        if path == "/":
            raise self.instruction.origin.error(f"invalid mount target {mount.target!r}", hint="name a folder below /")
        return path

    def files(self, mount: Mount) -> Part:
        """What a mount takes its files from: as one source, with its own name and metadata."""
        path = posixpath.normpath(posixpath.join("/", mount.source))

        def find(context: Context) -> list[Source]:
            place = mount.from_ or "the build context"
            try:
                return [Source("", True, context.everything(path))]
            except OSError as error:
                raise self.instruction.origin.error(
                    f"--mount: {path}: {error.strerror} in {place}", hint="source= is a path from its root"
                ) from None

        context = self.around.named_context(mount.from_) if mount.from_ else self.around.context
        if context is not None:
            return ContextFiles.of(context, find(context), unpack=False)
        tree = self.around.find_tree(mount.from_, self.instruction)
        return TreeFiles(tree, find, ["mount", path], self.around.workshop, self.around.store)


@dataclass(frozen=True, slots=True)
class _EmptyFolder:
    """A folder with nothing in it, as the source of a cache."""

    mode: int
    uid: int
    gid: int
    unpacks: ClassVar[bool] = False

    def inputs(self) -> Any:
        return [self.mode, self.uid, self.gid]

    def contents(self) -> dict[str, str]:
        return {}

    def pieces(self, opened: contextlib.ExitStack, scratch: Path) -> list[Piece]:
        entry = Entry(SUBTREE, "d", self.mode, self.uid, self.gid, 0)
        return [Piece(Source("", True, (entry,)), Context(HostFolder(str(scratch))))]


def _content(files: Part) -> Any:
    """What the key takes of a mount's files. Of a tree that shows the host's, its name: who could read it all?"""
    if isinstance(files, TreeFiles) and not files.tree.is_kept:
        return [root_key(files.tree), files.question]
    return files.inputs()


class _Plan(Protocol):
    """One mount. ``waits_for``: the name of what it may have to wait for."""

    waits_for: str

    def inputs(self) -> Any: ...

    def make_ready(self, ready: Ready) -> None: ...


class _Bind:
    waits_for = ""

    def __init__(self, mount: Mount, run: _Run) -> None:
        self._target = run.target(mount)
        self._source = posixpath.normpath(posixpath.join("/", mount.source))
        self._read_only = mount.read_only
        self._files = run.files(mount)

    def inputs(self) -> Any:
        return ["bind", self._target, self._read_only, _content(self._files)]

    def make_ready(self, ready: Ready) -> None:
        if isinstance(self._files, TreeFiles):
            tree, source = self._files.tree, self._source
        else:
            tree, source = Tree((Layer("context", str(ready.placed(self._files))),)), f"/{SUBTREE}"
        ready.mounts.append(steps.TreeMount(self._target, tree, source, self._read_only))


class _Cache:
    def __init__(self, mount: Mount, run: _Run) -> None:
        self._mount = mount
        self._target = run.target(mount)
        namespace = run.around.build_args.get(_NAMESPACE)
        name = mount.id or posixpath.normpath(mount.target)
        self._id = f"{namespace}/{name}" if namespace else name
        self._begins_as = self._beginning(run)
        # A cache that began otherwise is another, as in BuildKit.
        self.waits_for = step_key("cache", {"id": self._id, "begins_as": _content(self._begins_as)})

    def _beginning(self, run: _Run) -> Part:
        mount = self._mount
        has_access = (mount.mode, mount.uid, mount.gid) != (None, None, None)
        if posixpath.join("/", mount.source) == "/" and (has_access or not mount.from_):
            return _EmptyFolder(0o755 if mount.mode is None else mount.mode, mount.uid or 0, mount.gid or 0)
        if mount.from_:
            return run.files(mount)
        raise run.instruction.origin.error(
            f"--mount: {mount.source}: a cache begins empty", hint="source= of a cache goes with from="
        )

    def inputs(self) -> Any:
        return ["cache", self._target, self._mount.sharing, self._mount.read_only, self.waits_for]

    def make_ready(self, ready: Ready) -> None:
        folder = ready.cache(self.waits_for, self._mount.sharing or "shared")
        with ready.around.store.lock(f"cache-{self.waits_for}"):
            if not (folder / "fs").exists():
                os.rename(ready.placed(self._begins_as), folder / "fs")
        place = folder / "fs" / SUBTREE
        ready.mounts.append(steps.FolderMount(self._target, place, self._mount.read_only))


class _Tmpfs:
    waits_for = ""

    def __init__(self, mount: Mount, run: _Run) -> None:
        self._mount = steps.MemoryMount(run.target(mount), mount.size, mount.read_only)

    def inputs(self) -> Any:
        return ["tmpfs", self._mount.target, self._mount.size, self._mount.read_only]

    def make_ready(self, ready: Ready) -> None:
        ready.mounts.append(self._mount)


class _Secret:
    waits_for = ""

    def __init__(self, mount: Mount, run: _Run) -> None:
        self._id = mount.source or mount.id or posixpath.basename(mount.target)
        self._env = (mount.env or self._id) if mount.env is not None else None
        self._target = mount.target
        if not mount.target and mount.env is None:
            self._target = posixpath.join(_SECRETS, posixpath.basename(self._id))
        self._required = mount.required
        self._access = (0o400 if mount.mode is None else mount.mode, mount.uid or 0, mount.gid or 0)

    def inputs(self) -> Any:
        return ["secret", self._target, self._id, self._env, self._required, self._access]

    def make_ready(self, ready: Ready) -> None:
        secrets = ready.around.secrets
        if self._id not in secrets:
            if self._required:
                given = ", ".join(secrets) or "none"
                raise StepFailed(
                    f"secret {self._id}: not found",
                    hint=f"give the build one (build(secrets={{{self._id!r}: …}}), --secret id={self._id},src=FILE); "
                    f"it was given: {given}",
                )
            return
        value = read_secret(self._id, secrets[self._id])
        if self._env is not None:
            ready.env[self._env] = value.decode("utf-8", "surrogateescape")
        if self._target:
            target = posixpath.normpath(posixpath.join("/", self._target))
            ready.mounts.append(steps.SecretMount(target, value, *self._access))


class _Agent:
    waits_for = ""

    def __init__(self, mount: Mount, run: _Run) -> None:
        if mount.source:
            raise run.instruction.origin.error("ssh does not support source", hint="id= names the agent")
        self._id = mount.id or DEFAULT_AGENT
        self._target = posixpath.join("/", mount.target) if mount.target else _AGENT_SOCKET.format(run.agents)
        run.agents += 1
        self._required = mount.required
        self._access = (0o600 if mount.mode is None else mount.mode, mount.uid or 0, mount.gid or 0)

    def inputs(self) -> Any:
        return ["ssh", self._target, self._id, self._required, self._access]

    def make_ready(self, ready: Ready) -> None:
        agent = ready.around.agents.get(self._id)
        if agent is not None:
            ready.mounts.append(steps.AgentMount(self._target, agent, *self._access))
            ready.defaults.setdefault(_AGENT_VARIABLE, self._target)
        elif self._required:
            raise StepFailed(
                f"no SSH agent for id {self._id}",
                hint=f"give the build one: build(ssh=[{self._id!r}]), or --ssh {self._id}",
            )


_KINDS: dict[str, Callable[[Mount, _Run], _Plan]] = {
    "bind": _Bind,
    "cache": _Cache,
    "tmpfs": _Tmpfs,
    "secret": _Secret,
    "ssh": _Agent,
}
