"""The small protocol through which a build runs commands and places files: the engine does it in containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_capsule.build.folders import Folder
from pytest_capsule.store.image import Tree


@dataclass(frozen=True, slots=True)
class TreeMount:
    """``type=bind``: what lies at ``source`` in a tree. What is written there is thrown away afterwards."""

    target: str
    tree: Tree
    source: str = "/"
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class FolderMount:
    """``type=cache``: a folder of the store."""

    target: str
    folder: Path
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class MemoryMount:
    """``type=tmpfs``: ``size`` in bytes, 0 for no limit."""

    target: str
    size: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SecretMount:
    """``type=secret``, as a file."""

    target: str
    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class AgentMount:
    """``type=ssh``: a socket that leads to the SSH agent at ``agent``, a path of the host."""

    target: str
    agent: str
    mode: int
    uid: int
    gid: int


Mount = TreeMount | FolderMount | MemoryMount | SecretMount | AgentMount


@dataclass(frozen=True, slots=True)
class Command:
    """A RUN: ``argv`` with its whole environment, what is mounted meanwhile, and ``scripts``: texts to be executable
    at a path.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    workdir: str
    network: str
    hostname: str
    privileged: bool = False
    mounts: tuple[Mount, ...] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)


class Workshop(Protocol):
    """Changes a tree for one build: each method leaves what it wrote in ``scratch / "fs"``, in overlay form."""

    def cancel(self) -> None:
        """End all that is going on, in whichever thread, and begin nothing more: it fails there in any way."""

    def run(self, tree: Tree, scratch: Path, command: Command, output: Callable[[str], None]) -> int:
        """Run a command and hand over its output as it comes; returns its exit code."""

    def place(self, tree: Tree, scratch: Path, message: dict[str, Any], roots: Sequence[int]) -> list[str]:
        """Place files: the message is that of ``runtime.placement.place``.

        Returns what the tree lacks to know the owner, who is root then.
        """

    def make_directory(self, tree: Tree, scratch: Path, path: str, user: str) -> list[str]:
        """``mkdir -p``; what had to be made belongs to ``user`` (``user[:group]``, root when empty).

        Returns what the tree lacks to know that user, who is root then.
        """

    def open_tree(self, tree: Tree) -> AbstractContextManager[Folder]:
        """The files of a tree, to copy from."""
