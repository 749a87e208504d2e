"""COPY and ADD: what is taken from where, placed how. The placing itself is done inside, by ``runtime.placement``."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_capsule.build.context import EXCLUDED, Context, Source
from pytest_capsule.build.execution import StepFailed
from pytest_capsule.build.modes import Mode
from pytest_capsule.build.parts import ContextFiles, Heredocs, Part, Piece, TreeFiles
from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.store.image import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_capsule.build.remotes import Remotes
    from pytest_capsule.build.stage import Surroundings
    from pytest_capsule.build.steps import Workshop

_CONTEXT = "the build context"
_NEW_FOLDER = 0o755


@dataclass(frozen=True, slots=True)
class Placement:
    """One COPY or ADD, worked out: sources are found and hashed, nothing is placed yet.

    ``tree`` is what they are placed on, nothing where ``link`` wants a layer of its own that knows nothing of what lies
    below. ``destination`` is absolute and ends in a slash where a directory is meant. ``owner`` is ``user[:group]``,
    empty to keep the sources' own, ``mode`` the words of ``--chmod``.
    """

    tree: Tree
    parts: tuple[Part, ...]
    destination: str
    owner: str
    mode: Mode | None
    link: bool

    @classmethod
    def of(
        cls, instruction: ins.Transfer, around: Surroundings, remotes: Remotes, workdir: str, tree: Tree
    ) -> Placement:
        """Work out an expanded instruction; ``DockerfileError`` for what cannot be meant.

        ``StepFailed``, here and from ``inputs``, for what is not there.
        """
        _check(instruction)
        with instruction.origin.placing():
            mode = Mode.parse(instruction.chmod) if instruction.chmod else None
        link = instruction.link and mode is None  # convert_copy.go: --chmod undoes --link
        if link:
            tree = Tree()
        if not tree.layers and not tree.host_directories and re.search("[^0-9:]", instruction.chown):
            place = "--link" if link else "scratch"
            raise instruction.origin.error(
                f"--chown={instruction.chown} with {place}: there are no names, for there is no /etc/passwd beneath",
                hint="write the numbers of the user and the group",
            )
        return cls(
            tree,
            _parts(instruction, around, remotes),
            _destination(instruction, workdir),
            owner(instruction.chown),
            mode,
            link,
        )

    def inputs(self) -> dict[str, Any]:
        """What the cache key takes."""
        return {
            "transfer": self.destination,
            "owner": self.owner,
            "mode": self.mode and self.mode.text,
            "link": self.link,
            "sources": [part.inputs() for part in self.parts],
        }

    @property
    def unpacks(self) -> bool:
        """Whether anything is an archive that is unpacked."""
        return any(part.unpacks for part in self.parts)

    def contents(self) -> dict[str, str]:
        """A digest for each path, to say later which of them has changed."""
        return {path: digest for part in self.parts for path, digest in part.contents().items()}

    def carry_out(self, workshop: Workshop, scratch: Path) -> list[str]:
        """Place it all; returns what the tree lacks to know the owner."""
        with contextlib.ExitStack() as opened:
            pieces = [piece for part in self.parts for piece in part.pieces(opened, scratch)]
            contexts = list(dict.fromkeys(piece.context for piece in pieces))
            message = {
                "dest": self.destination,
                "user": self.owner or None,
                "parents_mode": self._parents_mode(),
                "sources": [self._message(piece, contexts.index(piece.context)) for piece in pieces],
            }
            roots = [_held(context.folder.open_root(), opened) for context in contexts]
            return workshop.place(self.tree, scratch, message, roots)

    def _parents_mode(self) -> int:
        """The mode of folders that have to be made: they take part in ``--chmod``, but for setuid and its like."""
        return _NEW_FOLDER if self.mode is None else self.mode.applied(_NEW_FOLDER, directory=True) & 0o777

    def _message(self, piece: Piece, root: int) -> dict[str, Any]:
        source = piece.source
        entries = [entry.message() for entry in source.entries]
        if self.mode is not None:
            for entry in entries:
                entry[2] = self.mode.applied(entry[2], directory=entry[1] == "d")
        return {
            "root": root,
            "name": source.name,
            "directory": source.directory,
            "unpack": piece.unpack,
            "entries": entries,
        }


def _parts(instruction: ins.Transfer, around: Surroundings, remotes: Remotes) -> tuple[Part, ...]:
    """The sources, in their order, those of the context that come in a row in one."""
    found: list[Part] = []
    if isinstance(instruction, ins.Copy) and instruction.from_:
        found.append(_files_from(instruction, around))
    else:
        unpacks = instruction.unpack is not False if isinstance(instruction, ins.Add) else False
        for source in instruction.sources:
            part = remotes.part(source, instruction)
            if part is None:
                part = ContextFiles.of(around.context, _find(around.context, source, instruction), unpack=unpacks)
            found.append(part)
    if instruction.files:
        found.append(Heredocs(instruction.files))
    return tuple(found)


def _files_from(instruction: ins.Copy, around: Surroundings) -> Part:
    """Those of a stage, an image, or a named context."""

    def find(context: Context) -> list[Source]:
        return [source for pattern in instruction.sources for source in _find(context, pattern, instruction)]

    named = around.named_context(instruction.from_)
    if named is not None:
        return ContextFiles.of(named, find(named), unpack=False)
    question = [instruction.sources, instruction.exclude, instruction.parents]
    tree = around.find_tree(instruction.from_, instruction)
    return TreeFiles(tree, find, question, around.workshop, around.store)


def owner(text: str) -> str:
    """Whom files are to belong to: BuildKit gives a bare number its own group (``llbsolver/file/user_linux.go``)."""
    return f"{text}:{text}" if text.isdecimal() else text


def _check(instruction: ins.Transfer) -> None:
    for file in instruction.files:
        if "/" in file.name or file.name in (".", ".."):
            raise instruction.origin.error(f"<<{file.name}: a heredoc's name is that of a file, without folders")


def _destination(instruction: ins.Transfer, workdir: str) -> str:
    """Where it goes: relative to the working directory; a directory where it is written as one.

    BuildKit lets several sources go to a name that is none: of files, the last one stays.
    """
    dest = instruction.dest
    path = posixpath.normpath(posixpath.join(workdir, dest))
    if not dest or dest.endswith("/") or posixpath.basename(dest) in (".", ".."):
        return path.rstrip("/") + "/"
    return path


def _find(context: Context, pattern: str, instruction: ins.Transfer) -> list[Source]:
    exclude = instruction.exclude_rules()
    try:
        if isinstance(instruction, ins.Copy) and instruction.parents:
            return context.find_with_parents(pattern, exclude)
        return context.find(pattern, exclude)
    except ValueError as error:
        raise instruction.origin.error(str(error)) from None
    except OSError as error:
        raise _missing(context, pattern, instruction, error) from None


def _missing(context: Context, pattern: str, instruction: ins.Transfer, error: OSError) -> StepFailed:
    """What is said of a source that is not there, or cannot be read."""
    if error.strerror == EXCLUDED:
        return StepFailed(f"{pattern}: {EXCLUDED}", hint="change .dockerignore, or copy something else")
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return StepFailed(f"{error.filename or pattern}: {error.strerror}")
    place = instruction.from_ if isinstance(instruction, ins.Copy) and instruction.from_ else _CONTEXT
    hint = context.suggestion(pattern)
    if hint is None and ".." in pattern.split("/"):
        hint = f"{instruction.keyword} cannot reach outside of {place}; move the file into it"
    elif hint is None and pattern.startswith("/") and place == _CONTEXT:
        hint = f"a path of {instruction.keyword} starts in {place}, not in the host's root"
    return StepFailed(f"{pattern}: not found in {place}", hint=hint)


def _held(fd: int, opened: contextlib.ExitStack) -> int:
    opened.callback(os.close, fd)
    return fd
