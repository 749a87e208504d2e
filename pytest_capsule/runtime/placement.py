"""COPY and ADD as init carries them out: files from a directory of the host, placed in the container's tree.

The engine has walked and hashed the sources and sends what is to be placed; here the destination is resolved, inside
the root, with the semantics of BuildKit's file operations (tonistiigi/fsutil, ``copy/copy.go``): a destination that is
an existing directory receives a file beneath its name and keeps its own metadata, a source directory gives its
contents, and within a copied tree a directory takes on the source's metadata, and a symlink that stands where one
should is refused.

Sources are opened beneath the descriptor of their root and never through a symlink, and a file that was written to
since it was hashed is refused: what is placed is what the cache key says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import constants, inroot, ownership, syscalls
from pytest_capsule.archive import xattrs
from pytest_capsule.runtime import files

if TYPE_CHECKING:
    from collections.abc import Callable

_BENEATH = constants.RESOLVE_BENEATH | constants.RESOLVE_NO_SYMLINKS


def place(message: dict[str, Any], roots: list[int]) -> None:
    """Carry out one COPY, ADD or ``copy_in``.

    ``message``: ``dest`` (absolute; a trailing slash means a directory), ``owner`` (uid, gid) or ``None`` to keep the
    sources' own, ``parents_owner`` and ``parents_mode`` of folders that have to be made, and ``sources``: each with
    ``root`` (index into ``roots``), ``name`` (what a file is called in a directory), ``directory``, ``unpack`` and
    ``entries`` (relative path, kind, mode, uid, gid, mtime in nanoseconds, and an origin that the kind decides: see
    ``build.context.Entry``; a folder's own entries come in a row, directories before what they hold; a file source has
    one entry).
    """
    destination: str = message["dest"]
    with files._opened_root() as root:
        make_parents = partial(
            inroot.make_directories, root, mode=message["parents_mode"], owner=message["parents_owner"]
        )
        if destination.endswith("/") and message["sources"]:
            make_parents(destination)
        for source in message["sources"]:
            _place_source(source, roots[source["root"]], root, destination, message["owner"], make_parents)


def _place_source(
    source: dict[str, Any],
    origin: int,
    root: int,
    destination: str,
    owner: tuple[int, int] | None,
    make_parents: Callable[[str], object],
) -> None:
    if source["unpack"]:
        make_parents(destination)
        _unpack(source["entries"][0][6], origin, root, destination, owner)
    elif source["directory"]:
        make_parents(destination)
        with _directory(root, destination) as target:
            _place_tree(source["entries"], origin, target, owner)
    else:
        if _is_directory(root, destination):
            destination = posixpath.join(destination, source["name"])
        make_parents(posixpath.dirname(destination))
        destination = _follow(root, destination)
        with inroot.parent(root, destination) as (parent, name):
            _place_entry(source["entries"][0], name, parent, origin, owner)


def _is_directory(root: int, path: str) -> bool:
    try:
        fd = inroot.open_inside(root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _follow(root: int, path: str) -> str:
    """The path that a file destination means when symlinks lie in its way: BuildKit resolves them in the root."""
    for _ in range(40):
        with inroot.parent(root, path) as (parent, name):
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError:
                return path
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target))
        inroot.make_directories(root, posixpath.dirname(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


@contextlib.contextmanager
def _directory(root: int, path: str) -> Any:
    fd = inroot.open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _place_tree(entries: list[list[Any]], origin: int, target: int, owner: tuple[int, int] | None) -> None:
    directories: list[tuple[str, int]] = []
    folder, parent = "", os.dup(target)
    try:
        for entry in entries:
            head, name = posixpath.split(entry[0])
            if head != folder:  # what lies in one folder comes in a row
                os.close(parent)
                folder, parent = head, _beneath(target, head)
            if entry[1] == "h":
                _link(entry[6], target, name, parent)
                continue
            _place_entry(entry, name, parent, origin, owner)
            if entry[1] == "d":
                directories.append((entry[0], entry[5]))
    finally:
        os.close(parent)
    for path, mtime in reversed(directories):  # what was placed inside has changed them
        head, name = posixpath.split(path)
        parent = _beneath(target, head)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
        os.close(parent)


def _beneath(target: int, folder: str) -> int:
    return syscalls.openat2(target, folder or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=_BENEATH)


def _link(first: str, target: int, name: str, parent: int) -> None:
    """One more name of a file that was placed before."""
    head, first_name = posixpath.split(first)
    folder = _beneath(target, head)
    try:
        _make_room(name, parent)
        os.link(first_name, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(folder)


def _place_entry(entry: list[Any], name: str, parent: int, origin: int, owner: tuple[int, int] | None) -> None:
    path, kind, mode, uid, gid, mtime, link = entry
    attributes: dict[str, bytes] = {}
    if kind == "d":
        _make_directory(name, parent, path)
        attributes = _attributes(link, origin) if link else {}
    else:
        _make_room(name, parent)
        if kind == "f":
            attributes = _copy_file(link, name, parent, origin, mtime)
        elif kind == "l":
            os.symlink(link, name, dir_fd=parent)
        elif kind == "p":
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif kind == "s":
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent))
        else:
            os.mknod(name, 0o600 | (stat.S_IFCHR if kind == "c" else stat.S_IFBLK), int(link), dir_fd=parent)
    ownership.give(parent, name, *(owner or (uid, gid)))
    if kind != "l":
        os.chmod(name, mode, dir_fd=parent)  # after chown, which clears setuid bits
    if attributes:  # and it takes away capabilities
        _give_attributes(name, parent, attributes)
    os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)


def _attributes(path: str, origin: int) -> dict[str, bytes]:
    read = _open_source(path, origin)
    try:
        return xattrs.read(read)
    finally:
        os.close(read)


def _give_attributes(name: str, parent: int, attributes: dict[str, bytes]) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        xattrs.write(fd, attributes)
    finally:
        os.close(fd)


def _make_directory(name: str, parent: int, path: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise OSError(errno.ENOTDIR, "cannot copy a directory over what is not one", path) from None
        ownership.record_in(parent, name, *ownership.ROOT)


def _make_room(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        raise OSError(errno.EISDIR, "cannot replace a directory with a file", name) from None


def _copy_file(path: str, name: str, parent: int, origin: int, mtime: int) -> dict[str, bytes]:
    """Copy a file's content; returns the extended attributes that it has besides."""
    read = _open_source(path, origin)
    try:
        write = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            files.copy_content(read, write)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
        finally:
            os.close(write)
        if os.fstat(read).st_mtime_ns != mtime:
            raise OSError(errno.ESTALE, "it was written to while it was copied; try again", path)
        return xattrs.read(read)
    finally:
        os.close(read)


def _open_source(path: str, origin: int) -> int:
    try:
        return syscalls.openat2(origin, path, os.O_RDONLY, resolve=_BENEATH)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None


def _unpack(path: str, origin: int, root: int, destination: str, owner: tuple[int, int] | None) -> None:
    from pytest_capsule.archive import unpack
    from pytest_capsule.archive.compression import Broken

    with (
        open(_open_source(path, origin), "rb") as archive,
        _directory(root, destination) as target,
    ):
        try:
            unpack.unpack(archive, target, owner=None if owner is None else lambda _: owner)
        except Broken as error:
            raise OSError(errno.EINVAL, f"the archive is broken: {error}", path) from None
