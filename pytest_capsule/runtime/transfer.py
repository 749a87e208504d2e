"""``docker cp``, both ways, over the requests that init answers."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel
from pytest_capsule.errors import ContainerError, UsageError
from pytest_capsule.runtime.files import copy_content

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Call = Callable[..., tuple[channel.Message, list[int]]]

_DEEPEST = 400  # directories within each other: each is open while what lies in it is copied
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def copy_in(call: Call, src: str, dest: str) -> None:
    """Copy ``src`` of the host to ``dest`` inside."""
    source = os.path.realpath(src)
    if not os.path.lexists(source):
        raise UsageError(f"copy_in: {src}: no such file or folder")
    directory = os.path.isdir(source)
    name = os.path.basename(os.path.abspath(src))  # of the symlink, if it is one; what it points to is copied
    if directory and posixpath.basename(src) != "." and _is_directory(call, dest):
        dest = posixpath.join(dest, name)
    folder, real_name = (source, "") if directory else os.path.split(source)
    entries = list(_walk(source, "")) if directory else [_entry(source, name, real_name)]
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        item = {"root": 0, "name": name, "directory": directory, "unpack": False, "entries": entries}
        call({"op": "place", "dest": dest, "user": "0:0", "sources": [item]}, [root])
    finally:
        os.close(root)


def _walk(folder: str, relative: str) -> Sequence[list[Any]]:
    """The entries beneath a folder: those of one folder in a row, a directory before what it holds."""
    found: list[list[Any]] = []
    below: list[str] = []
    for name in sorted(os.listdir(os.path.join(folder, relative))):
        path = posixpath.join(relative, name)
        found.append(_entry(os.path.join(folder, path), path, path))
        if found[-1][1] == "d":
            below.append(path)
    for path in below:
        found.extend(_walk(folder, path))
    return found


def _entry(source: str, path: str, origin: str) -> list[Any]:
    info = os.lstat(source)
    mode = stat.S_IMODE(info.st_mode)
    common = [mode, 0, 0, info.st_mtime_ns]
    if stat.S_ISDIR(info.st_mode):
        return [path, "d", *common, None]
    if stat.S_ISLNK(info.st_mode):
        return [path, "l", *common, os.readlink(source)]
    if stat.S_ISFIFO(info.st_mode):
        return [path, "p", *common, None]
    if stat.S_ISREG(info.st_mode):
        return [path, "f", *common, origin]
    raise UsageError(f"copy_in: {source} is neither a file, a folder, a symlink nor a FIFO")


def _is_directory(call: Call, path: str) -> bool:
    try:
        info = call({"op": "stat", "path": path, "follow": True})[0]["stat"]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISDIR(info["mode"])


def copy_out(call: Call, src: str, dest: str) -> None:
    """Copy ``src`` of the container to ``dest`` on the host."""
    contents = src.endswith("/.") or src == "/"
    src = src.removesuffix("/.") or "/"
    info = call({"op": "stat", "path": src, "follow": False})[0]["stat"]
    name = posixpath.basename(src)
    if not os.path.isdir(dest):
        folder, name = os.path.split(os.path.abspath(dest))
    elif contents and stat.S_ISDIR(info["mode"]):
        folder, name = os.path.split(os.path.realpath(dest))
    else:
        folder = dest
    parent = os.open(folder, _FOLDER)
    try:
        target = call({"op": "link", "path": src})[0]["target"] if stat.S_ISLNK(info["mode"]) else None
        _fetch(call, src, {**info, "name": name, "target": target}, parent)
    finally:
        os.close(parent)


def _fetch(call: Call, path: str, entry: dict[str, Any], parent: int) -> None:
    """Make ``entry`` in the host's folder behind ``parent``: names come from a listing and are never followed."""
    name, mode = entry["name"], entry["mode"]
    if "/" in name or name in ("", ".", ".."):  # none that a kernel gives; but who knows who answers
        raise ContainerError(f"copy_out: {path}: {name!r} is no name of a file")
    if stat.S_ISDIR(mode):
        _fetch_directory(call, path, name, mode, parent)
    elif stat.S_ISLNK(mode):
        _remove(name, parent)
        os.symlink(entry["target"], name, dir_fd=parent)
    elif stat.S_ISREG(mode):
        _, (read,) = call({"op": "open", "path": path, "flags": os.O_RDONLY | os.O_NOFOLLOW, "mode": 0})
        try:
            if not stat.S_ISREG(os.fstat(read).st_mode):  # it is another now, maybe one without an end
                return
            _remove(name, parent)
            write = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                copy_content(read, write)
                os.fchmod(write, stat.S_IMODE(mode) & 0o777)
                os.utime(write, ns=(entry["mtime_ns"], entry["mtime_ns"]))
            finally:
                os.close(write)
        finally:
            os.close(read)
    # sockets, FIFOs and devices mean nothing outside


def _fetch_directory(call: Call, path: str, name: str, mode: int, parent: int) -> None:
    if path.count("/") > _DEEPEST:
        raise ContainerError(f"copy_out: more than {_DEEPEST} directories lie in each other: …{path[-80:]}")
    made = True
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        made = False
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise
    fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for entry in call({"op": "list", "path": path})[0]["entries"]:
            _fetch(call, posixpath.join(path, entry["name"]), entry, fd)
        if made:
            os.fchmod(fd, stat.S_IMODE(mode) & 0o777)
    finally:
        os.close(fd)


def _remove(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
