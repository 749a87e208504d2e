"""The build context: which files a COPY means, and what is in them.

A file's digest is remembered by inode, size and times, so that an unchanged context costs a walk and no reading.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_capsule.archive import xattrs
from pytest_capsule.build.folders import Folder, Status
from pytest_capsule.build.patterns import compile_pattern, has_wildcard
from pytest_capsule.build.sieve import Judgement, Sieve
from pytest_capsule.dockerfile.dockerignore import IgnoreRules, Verdict
from pytest_capsule.dockerfile.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXCLUDED = "excluded by .dockerignore"
NO_RULES = IgnoreRules()
SUBTREE = "tree"
_CHUNK = 1 << 20
# A file changed again within the clock tick of its last change keeps its times; so what was changed just before it was
# read is not remembered (as git does with its index). 20 ms is twice the coarsest tick of Linux.
_TICK = 20_000_000
_READ_FROM = "fd"  # kinds of entries whose origin is only where they are read from
_LINKS = 40  # what the kernel itself follows in one path, MAXSYMLINKS

_KIND = 0o170000  # the bits of a mode that S_IFMT gives
_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFSOCK: "s",
}


class Entry(NamedTuple):  # made ten thousand times for a large context, and four times as fast as a frozen dataclass
    """One file, directory, link or node to be copied.

    ``path`` is relative to its source. ``kind`` is ``f`` for a file (``origin``: its path in the context), ``d`` for a
    directory (its path too, where it has extended attributes), ``l`` for a symlink (its target), ``h`` for one more
    name of a file (the path of the earlier entry), ``p`` for a FIFO, ``c`` and ``b`` for devices (their number), ``s``
    for a socket, of which an empty file is left. ``digest`` is of a file's content and of extended attributes.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    origin: str = ""
    digest: str = ""

    def beneath(self, folder: str) -> Entry:
        """The same, one folder further down."""
        origin = f"{folder}/{self.origin}" if self.kind == "h" else self.origin
        return self._replace(path=f"{folder}/{self.path}", origin=origin)

    def message(self) -> list[Any]:
        """As ``runtime.placement`` takes it."""
        return [self.path, self.kind, self.mode, self.uid, self.gid, self.mtime_ns, self.origin]


@dataclass(frozen=True, slots=True)
class Source:
    """What one path of a COPY names: a file, or a directory, whose contents are copied.

    ``name`` is what a file is called in a directory.
    """

    name: str
    directory: bool
    entries: tuple[Entry, ...]


class Context:
    """A folder as the only source of COPY and ADD; nothing outside of it is ever reached.

    ``keep_owners`` is for a tree that is an image's: files of a context belong to root. ``memory`` are the digests of
    the last time.
    """

    def __init__(
        self,
        folder: Folder,
        ignore: IgnoreRules | None = None,
        *,
        memory: dict[str, str] | None = None,
        keep_owners: bool = False,
    ) -> None:
        self.folder = folder
        self._rules = ignore or NO_RULES
        self._keep_owners = keep_owners
        self._known = memory or {}
        self.memory: dict[str, str] = {}
        """The digests that were used, to be given as ``memory`` next time."""
        self.changed = False
        """Whether ``memory`` holds something that was not known before."""

    def find(self, pattern: str, exclude: IgnoreRules = NO_RULES) -> list[Source]:
        """The sources that a path of COPY or ADD names; ``FileNotFoundError`` when a plain one is not there.

        ``exclude`` leaves out what lies in a directory, by its path from there; never the source itself (``fsutil``).
        """
        return [self._source(path, Sieve(self._rules, exclude)) for path in self._paths(pattern)]

    def find_with_parents(self, pattern: str, exclude: IgnoreRules = NO_RULES) -> list[Source]:
        """The sources of ``COPY --parents``: what ``pattern`` names, with the folders on its way.

        Those begin behind a ``/./``, or else at the root; ``exclude`` has paths from there. Unlike elsewhere, ``**`` in
        the pattern is any number of folders.
        """
        pivot, found, below = pattern.partition("/./")
        if not found:
            pivot, below = "", pattern
        below = posixpath.normpath("/" + below).lstrip("/")
        if not has_wildcard(pattern):
            self.folder.status(self._resolve(posixpath.join(pivot, below)))
        include = IgnoreRules.of([below]) if below else None
        return [self._source(path, Sieve(self._rules, exclude, include)) for path in self._paths(pivot)]

    def everything(self, path: str) -> tuple[Entry, ...]:
        """What lies at one path, which is no pattern, and all beneath: as ``SUBTREE``, whatever it is called."""
        path = posixpath.normpath("/" + path).lstrip("/")
        source = self._source(path, Sieve(self._rules, NO_RULES))
        if not source.directory:
            return tuple(entry._replace(path=SUBTREE) for entry in source.entries)
        resolved = self._resolve(path)
        top = self._entry(resolved, SUBTREE, self.folder.status(resolved), {})
        return (top, *(entry.beneath(SUBTREE) for entry in source.entries))

    def suggestion(self, path: str) -> str | None:
        """The hint that names what is spelt nearly as the first part of a path that is not there, or ``None``."""
        folder = ""
        for part in posixpath.normpath("/" + path).lstrip("/").split("/"):
            try:
                there = [posixpath.join(folder, name) for name, _ in self.folder.entries(self._resolve(folder))]
            except (FileNotFoundError, NotADirectoryError):
                return None
            folder = posixpath.join(folder, part)
            if folder not in there:
                known = [one for one in there if not self._rules.verdict(one).ignored]
                return did_you_mean(part, map(posixpath.basename, known), beneath=posixpath.dirname(folder))
        return None

    def _paths(self, pattern: str) -> list[str]:
        """What a pattern names, nothing where nothing matches; the folders before its first wildcard must be there."""
        path = posixpath.normpath("/" + pattern).lstrip("/")
        if not has_wildcard(path):
            return [path]
        parts = path.split("/")
        plain = next(number for number, part in enumerate(parts) if has_wildcard(part))
        folder = "/".join(parts[:plain])
        self._resolve(folder)
        return list(self._expand(folder, parts[plain:]))

    def _expand(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        expression = compile_pattern(parts[0])
        try:
            names = [name for name, _ in self.folder.entries(self._resolve(folder))]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if expression.fullmatch(name):
                path = posixpath.join(folder, name)
                if len(parts) > 1:
                    yield from self._expand(path, parts[1:])
                elif not self._is_left_out(self._rules.verdict(path)):
                    yield path

    def _source(self, path: str, sieve: Sieve) -> Source:
        resolved = self._resolve(path)
        info = self.folder.status(resolved)
        verdict = self._rules.verdict(resolved)
        if self._is_left_out(verdict):
            raise FileNotFoundError(2, EXCLUDED, path)
        name = posixpath.basename(path)
        if stat.S_ISDIR(info.st_mode):
            return Source(name, True, tuple(self._walk(resolved, "", sieve, Judgement(verdict), {})))
        return Source(name, False, (self._entry(resolved, name, info, {}),))

    def _resolve(self, path: str) -> str:
        """Follow the symlinks of a source path as a chroot in the context would."""
        resolved, rest, links = "", [part for part in reversed(path.split("/")) if part], 0
        while rest:
            part = rest.pop()
            if part == "..":
                resolved = posixpath.dirname(resolved)
                continue
            here = posixpath.join(resolved, part)
            if not stat.S_ISLNK(self.folder.status(here).st_mode):
                resolved = here
                continue
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = self.folder.target(here)
            resolved = "" if target.startswith("/") else resolved
            rest += [name for name in reversed(target.split("/")) if name not in ("", ".")]
        return resolved

    def _walk(
        self, top: str, relative: str, sieve: Sieve, above: Judgement, seen: dict[tuple[int, int], str]
    ) -> list[Entry]:
        """Everything beneath a directory: what lies in one folder in a row, a directory before what it holds."""
        found: list[Entry] = []
        folders: list[tuple[str, Judgement]] = []
        has_patterns = sieve.has_patterns
        inner = f"{relative}/" if relative else ""
        outer = f"{top}/{inner}" if top else inner
        for name, info in self.folder.entries(outer.rstrip("/")):
            path, full = inner + name, outer + name
            judgement = sieve.judge(full, path, above) if has_patterns else above
            is_folder = info.st_mode & _KIND == stat.S_IFDIR
            if judgement.taken:
                found.append(self._entry(full, path, info, seen))
                if is_folder:
                    folders.append((path, judgement))
            elif is_folder and sieve.may_take_within(path, judgement):
                below = self._walk(top, path, sieve, judgement, seen)
                if below:  # a file that is taken brings the folders on its way along
                    found += (self._entry(full, path, info, seen), *below)
        for path, judgement in folders:
            found += self._walk(top, path, sieve, judgement, seen)
        return found

    def _is_left_out(self, verdict: Verdict) -> bool:
        if not verdict.ignored:
            return False
        is_folder = stat.S_ISDIR(self.folder.status(verdict.path).st_mode)
        return not (is_folder and self._rules.may_contain_kept(verdict))

    def _entry(self, full: str, path: str, info: os.stat_result | Status, seen: dict[tuple[int, int], str]) -> Entry:
        mode = info.st_mode
        kind, mode = _KINDS[mode & _KIND], mode & ~_KIND
        uid, gid = (info.st_uid, info.st_gid) if self._keep_owners else (0, 0)
        origin = digest = ""
        if kind == "f":
            origin, digest = full, self._digest(full, info)
            if info.st_nlink > 1:
                first = seen.setdefault((info.st_dev, info.st_ino), path)
                if first != path:
                    kind, origin = "h", first
        elif kind == "d":
            digest = self._digest_of_attributes(full)
            origin = full if digest else ""
        elif kind == "l":
            mode, origin = 0o777, self.folder.target(full)
        elif kind in "cb":
            origin = str(info.st_rdev)
        return Entry(path, kind, mode, uid, gid, info.st_mtime_ns, origin, digest)

    def _digest(self, full: str, info: os.stat_result | Status) -> str:
        state = f"{info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} "
        known = self._known.get(full)
        if known is not None and known.startswith(state):
            self.memory[full] = known
            return known[len(state) :]
        now = time.time_ns()
        digest = hashlib.sha256()
        with open(self.folder.open(full), "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            if attributes := xattrs.read(file.fileno()):  # a change of them changes ctime too
                digest.update(repr(attributes).encode())
        if info.st_ctime_ns < now - _TICK:
            self.memory[full] = state + digest.hexdigest()
            self.changed = True
        return digest.hexdigest()

    def _digest_of_attributes(self, directory: str) -> str:
        """Empty where it has none."""
        attributes = self.folder.attributes(directory)
        return hashlib.sha256(repr(attributes).encode()).hexdigest() if attributes else ""


def fingerprint(sources: Sequence[Source]) -> str:
    """What COPY's cache key takes of its sources: names, kinds, modes, owners, link targets, contents; never a time."""
    lines = []
    for source in sources:
        lines.append(f"{'/' if source.directory else source.name}\0{len(source.entries)}\0")
        lines += [
            f"{path}\0{kind}{mode} {uid} {gid}\0{'' if kind in _READ_FROM else origin}\0{content}\0"
            for path, kind, mode, uid, gid, _, origin, content in source.entries
        ]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def contents(sources: Sequence[Source]) -> dict[str, str]:
    """A short digest for each path of the sources, of what ``fingerprint`` takes: to say which of them has changed."""
    found = {}
    for source in sources:
        for entry in source.entries:
            path = entry.origin if entry.kind == "f" else posixpath.join(source.name, entry.path)
            target = "" if entry.kind in _READ_FROM else entry.origin
            line = repr((entry.kind, entry.mode, entry.uid, entry.gid, target, entry.digest))
            found[path] = hashlib.sha256(line.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return found
