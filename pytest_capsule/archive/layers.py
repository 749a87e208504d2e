"""Layers as tar archives, and as directories in overlay form: from the one into the other.

An archive says by a file ``.wh.NAME`` that a layer hides NAME of those below, and by ``.wh..wh..opq`` in a directory
that it hides all that is in it below (image-spec, layer.md). An overlay filesystem says the same by a device 0:0 called
NAME, and by an extended attribute of the directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import zlib
from typing import Any

from pytest_capsule._linux import constants, syscalls
from pytest_capsule.archive.compression import Broken, Growing, Readable, ahead, unpacked
from pytest_capsule.archive.members import Reader
from pytest_capsule.archive.pack import packed
from pytest_capsule.archive.unpack import Placing, inside, named_owner

_HIDDEN = ".wh."
_OWN = ".wh..wh."  # what aufs kept for itself
_OPAQUE = ".wh..wh..opq"
_OPAQUE_MARK = "user.overlay.opaque"
_LEVEL = 6
_BENEATH = constants.RESOLVE_BENEATH | constants.RESOLVE_NO_SYMLINKS


Metadata = dict[str, list[int]]
"""Mode, owner, group and modification time of directories, by path."""


def unpack_layer(blob: str, tree: str, implied_metadata: Metadata) -> dict[str, Any]:
    """Unpack the layer in the file ``blob`` as the new directory ``tree``, in overlay form, whatever its order.

    ``implied_metadata`` is for directories that it does not name. Returns its ``diff_id``, and ``implied``: the
    directories that the archive has something in and does not name; or only ``broken``, which says how it is damaged.
    Runs where files of all owners may be made (``runtime.worker``).
    """
    with open(blob, "rb") as file:
        return _unpack(file, tree, implied_metadata)


def unpack_growing_layer(tree: str, implied_metadata: Metadata, blob: int, news: int) -> dict[str, Any]:
    """As ``unpack_layer``, of the open file ``blob``, which is still being written (``compression.Growing``)."""
    with open(blob, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return _unpack(Growing(file, news), tree, implied_metadata)


def _unpack(blob: Readable, tree: str, implied_metadata: Metadata) -> dict[str, Any]:
    os.mkdir(tree, 0o755)
    os.chmod(tree, 0o755)
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    digest = hashlib.sha256(usedforsecurity=False)
    try:
        implied = _place_members(Reader(ahead(unpacked(blob), digest.update)), root)
        for path in sorted(implied_metadata.keys() & implied, reverse=True):
            mode, uid, gid, mtime_ns = implied_metadata[path]
            os.chown(tree + path, uid, gid)
            os.chmod(tree + path, mode)
            os.utime(tree + path, ns=(mtime_ns, mtime_ns))
    except Broken as error:
        return {"broken": str(error)}
    finally:
        os.close(root)
    return {"diff_id": f"sha256:{digest.hexdigest()}", "implied": sorted(implied)}


def copy_tree(source: str, tree: str) -> dict[str, Any]:
    """Copy the root filesystem in the directory ``source`` as the new directory ``tree``, in overlay form."""
    os.mkdir(tree, 0o755)
    os.chmod(tree, 0o755)
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _place_members(Reader(packed(source)), root)
    finally:
        os.close(root)
    return {}


def _place_members(reader: Reader, root: int) -> set[str]:
    hidden: dict[str, int] = {}
    opaque: set[str] = set()
    with Placing(reader, root, named_owner) as placing:
        for member in reader:
            path = inside(member.name)
            head, name = posixpath.split(path)
            if name == _OPAQUE:
                opaque.add(head)
            elif _OWN in path and any(part.startswith(_OWN) for part in path.split("/")):
                continue
            elif name.startswith(_HIDDEN):
                hidden[posixpath.join(head, _hidden_name(name))] = member.mtime_ns
            else:
                placing.place(member, path)
        placing.place_late_links()
        _hide(placing, hidden, opaque)
        placing.set_times()
        return placing.implied


def _hidden_name(name: str) -> str:
    hidden = name[len(_HIDDEN) :]
    if hidden in ("", ".", ".."):
        raise Broken(f"{name!r} hides nothing that has a name")
    return hidden


def _hide(placing: Placing, hidden: dict[str, int], opaque: set[str]) -> None:
    """What the layer hides and also has: a directory of its own shows nothing from below, anything else covers it."""
    for path, mtime_ns in sorted(hidden.items()):
        head, name = posixpath.split(path)
        parent = placing.parent(head)
        try:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                opaque.add(path)
    for path in sorted(opaque):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=placing.parent(path))
        try:
            os.setxattr(fd, _OPAQUE_MARK, b"y")
        finally:
            os.close(fd)


def metadata_below(implied: list[str], below: list[str]) -> Metadata:
    """What the layers ``below``, the topmost first, say of directories; only what differs from a new directory's."""
    found: Metadata = {}
    for path in implied:
        info = next((info for layer in below if (info := _status(layer, path)) is not None), None)
        if info is not None and stat.S_ISDIR(info.st_mode):
            told = [stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns]
            if told[:3] != [0o755, 0, 0]:
                found[path] = told
    return found


def _status(layer: str, path: str) -> os.stat_result | None:
    """What a layer has at ``path``, with no symlink on the way; ``None`` for nothing."""
    root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = syscalls.openat2(root, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW, resolve=_BENEATH)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return None
    finally:
        os.close(root)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def tree_digest(tree: str) -> str:
    """The digest of the tar that the layer in the directory ``tree`` gives when it is packed."""
    digest = hashlib.sha256(usedforsecurity=False)
    for piece in packed(tree):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def pack_layer(tree: str, blob: str) -> dict[str, Any]:
    """Pack the layer in the directory ``tree``, in overlay form, into the new file ``blob``: a gzip'd tar.

    The same files give the same bytes. Returns its ``diff_id``, ``digest`` and ``size`` in bytes.
    """
    whole, compressed = hashlib.sha256(usedforsecurity=False), hashlib.sha256(usedforsecurity=False)
    deflate = zlib.compressobj(_LEVEL, wbits=31)  # its gzip header has neither a name nor a time
    with open(blob, "xb") as file:
        for piece in ahead(packed(tree), whole.update):
            data = deflate.compress(piece)
            compressed.update(data)
            file.write(data)
        data = deflate.flush()
        compressed.update(data)
        file.write(data)
        size = file.tell()
    return {"diff_id": f"sha256:{whole.hexdigest()}", "digest": f"sha256:{compressed.hexdigest()}", "size": size}
