"""Where COPY and ADD take their files from: the context, another tree, heredocs. ``download`` and ``repository`` have
the rest.

A part knows what the cache key takes of it; its files are only looked for again, fetched or written when the step is
carried out.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pytest_capsule.archive import unpack
from pytest_capsule.build.context import Context, Entry, Source, contents, fingerprint
from pytest_capsule.build.execution import root_key, step_key
from pytest_capsule.build.folders import HostFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_capsule.build.steps import Workshop
    from pytest_capsule.dockerfile.instructions import InlineFile
    from pytest_capsule.store.image import Tree
    from pytest_capsule.store.store import Store


@dataclass(frozen=True, slots=True)
class Piece:
    """One source, and the context that its files are read from; ``unpack``: it is an archive, to be unpacked."""

    source: Source
    context: Context
    unpack: bool = False


class Part(Protocol):
    """One or more sources of a COPY or ADD."""

    @property
    def unpacks(self) -> bool:
        """Whether any of them is an archive that is unpacked."""

    def inputs(self) -> Any:
        """What the cache key takes of it."""

    def contents(self) -> Mapping[str, str]:
        """A digest for each path, to say later which of them has changed."""

    def pieces(self, opened: contextlib.ExitStack, scratch: Path) -> Sequence[Piece]:
        """Its files, until ``opened`` ends; ``scratch`` is a folder for those that are nowhere yet."""


@dataclass(frozen=True, slots=True)
class ContextFiles:
    """Files of the context, already found and hashed."""

    found: tuple[Piece, ...]

    @classmethod
    def of(cls, context: Context, sources: Sequence[Source], *, unpack: bool) -> ContextFiles:
        """With ``unpack``, those that are archives are unpacked."""
        return cls(tuple(Piece(source, context, unpack and is_archive(context, source)) for source in sources))

    @property
    def unpacks(self) -> bool:
        """Whether any of them is an archive that is unpacked."""
        return any(piece.unpack for piece in self.found)

    def inputs(self) -> Any:
        """Names, kinds, modes, owners, targets and contents."""
        return [fingerprint([piece.source for piece in self.found]), [piece.unpack for piece in self.found]]

    def contents(self) -> Mapping[str, str]:
        """By their paths in the context."""
        return contents([piece.source for piece in self.found])

    def pieces(self, opened: contextlib.ExitStack, scratch: Path) -> Sequence[Piece]:
        """As they were found."""
        return self.found


class TreeFiles:
    """Files of a stage or an image: ``find`` gets them from its context.

    Trees do not change, so what one of them holds is remembered under ``question``, all that ``find`` depends on; one
    that shows directories of the host is looked at each time.
    """

    unpacks = False

    def __init__(
        self, tree: Tree, find: Callable[[Context], Sequence[Source]], question: Any, workshop: Workshop, store: Store
    ) -> None:
        self.tree = tree
        self.question = question
        self._find = find
        self._workshop = workshop
        self._store = store
        self._found: Sequence[Source] | None = None

    def inputs(self) -> Any:
        """Names, kinds, modes, owners, targets and contents."""
        name = step_key(root_key(self.tree), {"find": self.question})
        known = self._store.memory(name).get("fingerprint") if self.tree.is_kept else None
        if known is None:
            known = fingerprint(self._sources())
            if self.tree.is_kept:
                self._store.remember(name, {"fingerprint": known})
        return known

    def contents(self) -> Mapping[str, str]:
        """By their paths in the tree."""
        return contents(self._found or self._sources())

    def _sources(self) -> Sequence[Source]:
        with contextlib.ExitStack() as opened:
            return [piece.source for piece in self.pieces(opened)]

    def pieces(self, opened: contextlib.ExitStack, scratch: Path | None = None) -> Sequence[Piece]:
        """Found once, if the tree cannot change."""
        context = Context(opened.enter_context(self._workshop.open_tree(self.tree)), keep_owners=True)
        if self._found is None or not self.tree.is_kept:
            self._found = self._find(context)
        return [Piece(source, context) for source in self._found]


@dataclass(frozen=True, slots=True)
class Heredocs:
    """Heredocs as files, so that they are placed as any other is; BuildKit gives them mode 644 and root."""

    files: tuple[InlineFile, ...]
    unpacks: ClassVar[bool] = False

    def inputs(self) -> Any:
        """Names and texts."""
        return [(file.name, file.content) for file in self.files]

    def contents(self) -> Mapping[str, str]:
        """By their names."""
        return {file.name: _digest(file.content) for file in self.files}

    def pieces(self, opened: contextlib.ExitStack, scratch: Path) -> Sequence[Piece]:
        """Written now."""
        folder = scratch / "heredocs"
        folder.mkdir()
        context = Context(HostFolder(str(folder)))
        found = []
        for number, file in enumerate(self.files):
            path = folder / str(number)
            path.write_bytes(file.content.encode("utf-8", "surrogateescape"))
            entry = Entry(file.name, "f", 0o644, 0, 0, path.stat().st_mtime_ns, path.name)
            found.append(Piece(Source(file.name, False, (entry,)), context))
        return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def is_archive(context: Context, source: Source) -> bool:
    """Whether a source is a file that can be unpacked."""
    if source.directory or not source.entries or source.entries[0].kind != "f":
        return False
    with open(context.folder.open(source.entries[0].origin), "rb") as file:
        return unpack.is_archive(file)
