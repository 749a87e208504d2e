"""COPY and ADD: what is taken from where, placed how. The placing itself is done inside, by ``runtime.placement``."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_capsule.archive import unpack
from pytest_capsule.build.context import EXCLUDED, Context, Entry, Source, contents, fingerprint
from pytest_capsule.build.folders import HostFolder
from pytest_capsule.dockerfile import instructions as ins

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_capsule.build.steps import Workshop
    from pytest_capsule.store.image import Tree

_CONTEXT = "the build context"


@dataclass(frozen=True, slots=True)
class Placement:
    """One COPY or ADD, worked out: sources are found and hashed, nothing is placed yet.

    ``destination`` is absolute and ends in a slash where a directory is meant. ``archives`` are those of ``sources``
    that are unpacked. ``owner`` is ``user[:group]``, empty to keep the sources' own.
    """

    context: Context
    sources: tuple[Source, ...]
    archives: tuple[bool, ...]
    files: tuple[ins.InlineFile, ...]
    destination: str
    owner: str
    mode: int | None

    @classmethod
    def of(cls, instruction: ins.Transfer, context: Context, workdir: str) -> Placement:
        """Work out an expanded instruction; ``DockerfileError`` for what is not in the context or cannot be meant."""
        _check(instruction)
        sources = tuple(source for pattern in instruction.sources for source in _find(context, pattern, instruction))
        unpacks = isinstance(instruction, ins.Add) and instruction.unpack is not False
        return cls(
            context=context,
            sources=sources,
            archives=tuple(unpacks and _is_archive(context, source) for source in sources),
            files=instruction.files,
            destination=_destination(instruction, workdir),
            owner=owner(instruction.chown),
            mode=_mode(instruction),
        )

    def inputs(self) -> dict[str, Any]:
        """What the cache key takes."""
        return {
            "transfer": self.destination,
            "owner": self.owner,
            "mode": self.mode,
            "sources": fingerprint(self.sources),
            "archives": self.archives,
            "files": [(file.name, file.content) for file in self.files],
        }

    def contents(self) -> dict[str, str]:
        """A digest for each path, to say later which of them has changed."""
        return contents(self.sources)

    def carry_out(self, workshop: Workshop, tree: Tree, scratch: Path) -> None:
        """Place it all on ``tree``."""
        with contextlib.ExitStack() as opened:
            roots = [_held(self.context.folder.open_root(), opened)]
            sources = [
                self._message(source, 0, unpack=is_archive)
                for source, is_archive in zip(self.sources, self.archives, strict=True)
            ]
            if self.files:
                folder = scratch / "inline"
                sources += [self._message(source, 1) for source in _write_inline(folder, self.files)]
                roots.append(_held(HostFolder(str(folder)).open_root(), opened))
            message = {"dest": self.destination, "user": self.owner or None, "sources": sources}
            workshop.place(tree, scratch, message, roots)

    def _message(self, source: Source, root: int, *, unpack: bool = False) -> dict[str, Any]:
        entries = [entry.message() for entry in source.entries]
        if self.mode is not None:
            for entry in entries:
                entry[2] = self.mode
        return {"root": root, "name": source.name, "directory": source.directory, "unpack": unpack, "entries": entries}


def owner(text: str) -> str:
    """Whom files are to belong to: BuildKit gives a bare number its own group (``llbsolver/file/user_linux.go``)."""
    return f"{text}:{text}" if text.isdecimal() else text


def _check(instruction: ins.Transfer) -> None:
    error = instruction.origin.error
    if instruction.exclude:
        raise error(f"{instruction.keyword} --exclude is not supported yet")
    if isinstance(instruction, ins.Copy) and instruction.parents:
        raise error("COPY --parents is not supported yet")
    if isinstance(instruction, ins.Add):
        if instruction.checksum or instruction.keep_git_dir is not None:
            raise error("ADD --checksum and --keep-git-dir go with URLs, which are not supported yet")
        for source in instruction.sources:
            if source.startswith(("http://", "https://", "git@")) or source.split("#")[0].endswith(".git"):
                raise error(f"ADD of a URL is not supported yet: {source}")
    for file in instruction.files:
        if "/" in file.name or file.name in (".", ".."):
            raise error(f"<<{file.name}: a heredoc's name is that of a file, without folders")


def _destination(instruction: ins.Transfer, workdir: str) -> str:
    """Where it goes: relative to the working directory; a directory where it is written as one."""
    dest = instruction.dest
    path = posixpath.normpath(posixpath.join(workdir, dest))
    if not dest or dest.endswith("/") or posixpath.basename(dest) in (".", ".."):
        return path.rstrip("/") + "/"
    if len(instruction.sources) + len(instruction.files) > 1:
        raise instruction.origin.error(
            f"with more than one source, the destination of {instruction.keyword} is a directory and ends in /",
            hint=f"write {dest}/",
        )
    return path


def _mode(instruction: ins.Transfer) -> int | None:
    if not instruction.chmod:
        return None
    try:
        mode = int(instruction.chmod, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise instruction.origin.error(
            f"--chmod={instruction.chmod}: it takes an octal number", hint="for instance --chmod=755"
        )
    return mode


def _find(context: Context, pattern: str, instruction: ins.Transfer) -> list[Source]:
    place = _CONTEXT
    if isinstance(instruction, ins.Copy) and instruction.from_:
        place = instruction.from_
    hint = None
    try:
        return context.find(pattern)
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or pattern}: {error.strerror}"
        if error.strerror == EXCLUDED:
            hint = "change .dockerignore, or copy something else"
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            reason = f"{pattern}: not found in {place}"
            if ".." in pattern.split("/"):
                hint = f"{instruction.keyword} cannot reach outside of {place}; move the file into it"
            elif pattern.startswith("/") and place == _CONTEXT:
                hint = f"a path of {instruction.keyword} starts in {place}, not in the host's root"
    raise instruction.origin.error(reason, hint=hint) from None


def _is_archive(context: Context, source: Source) -> bool:
    if source.directory or not source.entries or source.entries[0].kind != "f":
        return False
    with open(context.folder.open(source.entries[0].origin), "rb") as file:
        return unpack.is_archive(file)


def _held(fd: int, opened: contextlib.ExitStack) -> int:
    opened.callback(os.close, fd)
    return fd


def _write_inline(folder: Path, files: Sequence[ins.InlineFile]) -> list[Source]:
    """The heredocs as files, so that they are placed as any other is; BuildKit gives them mode 644 and root."""
    folder.mkdir()
    sources = []
    for number, file in enumerate(files):
        path = folder / str(number)
        path.write_bytes(file.content.encode("utf-8", "surrogateescape"))
        entry = Entry(file.name, "f", 0o644, 0, 0, path.stat().st_mtime_ns, path.name)
        sources.append(Source(file.name, False, (entry,)))
    return sources
