"""Unpacks a tar archive beneath a directory, and never outside of it.

Where a member lands is resolved by the kernel inside the root (``_linux.inroot``): absolute names, ``..`` and symlinked
parents stay within it, as in a chroot, which is what Docker uses (moby, ``pkg/chrootarchive``). What replaces what
follows moby's ``pkg/archive``. Nothing else may write beneath the root meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from pytest_capsule._linux import inroot, ownership
from pytest_capsule.archive.compression import Broken, unpacked
from pytest_capsule.archive.members import Member, Reader

if TYPE_CHECKING:
    from typing_extensions import Self

Owner = tuple[int, int]
WhoseIs = Callable[[Member], Owner]
_FOLDERS_KEPT = 16
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICES = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK}
# Of overlay filesystems, which tell what a layer hides, and of recorded owners: an archive tells both in its own way.
_MARKS = ("user.overlay.", "trusted.overlay.", ownership.XATTR)


def is_archive(file: IO[bytes]) -> bool:
    """Whether ``file`` is a tar, plain or compressed; its position is put back to the start."""
    try:
        return next(iter(Reader(unpacked(file))), None) is not None
    except (Broken, OSError):
        return False
    finally:
        file.seek(0)


def unpack(file: IO[bytes], root: int, *, owner: WhoseIs | None = None) -> int:
    """Unpack the archive ``file`` into the directory descriptor ``root``; returns how many members it had.

    ``owner`` says who owns a member (default: whom the archive names); where there is no such id here it is recorded
    (``_linux.ownership``). Device nodes are left out where the kernel does not let this process make one (a user
    namespace), as Docker does.
    ``Broken`` for an archive that is damaged.
    """
    count = 0
    reader = Reader(unpacked(file))
    with Placing(reader, root, owner or named_owner) as placing:
        for member in reader:
            count += 1
            placing.place(member, inside(member.name))
        placing.place_late_links()
        placing.set_times()
    return count


def named_owner(member: Member) -> Owner:
    """Whom the archive names."""
    return member.uid, member.gid


def inside(name: str) -> str:
    """A member's name, or that of a hard link's target, as a path from the root."""
    return posixpath.normpath("/" + name.lstrip("/"))


class Placing:
    """Puts members beneath a root. The parents of the last few are kept open: a folder's members come in a row."""

    def __init__(self, reader: Reader, root: int, owner: WhoseIs) -> None:
        self._reader = reader
        self._root = root
        self._owner = owner
        self._parents: dict[str, int] = {}
        self._stale = False
        self._directories: dict[str, int] = {}
        self._links: dict[str, str] = {}
        self.implied: set[str] = set()
        """Directories that had to be made because a member lies in them, and that no member names."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_parents()

    def place(self, member: Member, path: str) -> None:
        """Put one member at ``path``."""
        if path == "/":
            self._place_root(member)
            return
        self._links.pop(path, None)
        if member.kind == b"0":
            self._file(member, path)
        elif member.kind == b"1":
            self._link(path, inside(member.link))
        else:
            self._other(member, path)

    def place_late_links(self) -> None:
        """Make the hard links whose files came after them."""
        for path, target in self._links.items():
            self._link(path, target, last=True)

    def set_times(self) -> None:
        """Give directories the times that they are to have: what was written into them has changed those."""
        for path in sorted(self._directories, reverse=True):
            head, name = posixpath.split(path)
            times = (self._directories[path],) * 2
            os.utime(name or ".", ns=times, dir_fd=self.parent(head), follow_symlinks=False)

    def parent(self, path: str) -> int:
        """A descriptor of the directory ``path``, which is made if it is not there; it is good until the next call."""
        if self._stale:
            self._forget_parents()
        fd = self._parents.get(path)
        if fd is not None:
            return fd
        try:
            fd = inroot.open_inside(self._root, path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            self.implied.update(inroot.make_directories(self._root, path, owner=(os.geteuid(), os.getegid())))
            fd = inroot.open_inside(self._root, path, os.O_PATH | os.O_DIRECTORY)
        if len(self._parents) >= _FOLDERS_KEPT:
            os.close(self._parents.pop(next(iter(self._parents))))
        self._parents[path] = fd
        return fd

    def _forget_parents(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._stale = False

    def _place_root(self, member: Member) -> None:
        if member.kind == b"5":
            ownership.give(self._root, ".", *self._owner(member))
            os.chmod(".", member.mode, dir_fd=self._root)
            self._directories["/"] = member.mtime_ns

    def _file(self, member: Member, path: str) -> None:
        head, name = posixpath.split(path)
        parent = self.parent(head)
        mode = member.mode & 0o777
        try:
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        except FileExistsError:
            self._make_room(parent, name, path)
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent)
        try:
            if member.pieces is None:
                for part in self._reader.content():
                    _write(fd, part)
            else:
                _write_pieces(fd, member, self._reader)
            made, owner = os.fstat(fd), self._owner(member)  # what is right already costs the disk nothing
            if (made.st_uid, made.st_gid) != owner:
                ownership.give_open(fd, *owner)
            if stat.S_IMODE(made.st_mode) != member.mode:
                os.fchmod(fd, member.mode)  # after chown, which clears setuid bits
            _set_xattrs(fd, member)  # after chown, which takes away file capabilities
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _link(self, path: str, target: str, *, last: bool = False) -> None:
        head, name = posixpath.split(path)
        parent = self.parent(head)
        try:
            with inroot.parent(self._root, target) as (source, source_name):
                wanted = os.lstat(source_name, dir_fd=source)
                if stat.S_ISDIR(wanted.st_mode):
                    raise Broken(f"{path} is a hard link to the directory {target}")
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(wanted, os.lstat(name, dir_fd=parent)):
                        return
                self._make_room(parent, name, path)
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if last:
                raise Broken(f"{path} is a hard link to {target}, which is not there") from None
            self._links[path] = target

    def _other(self, member: Member, path: str) -> None:
        """A directory, a symlink, a FIFO or a device."""
        head, name = posixpath.split(path)
        parent = self.parent(head)
        if not self._make(member, parent, name, path):
            return
        if member.kind == b"5":
            self._directories[path] = member.mtime_ns
            self.implied.discard(path)
        made, owner = os.lstat(name, dir_fd=parent), self._owner(member)
        if (made.st_uid, made.st_gid) != owner:
            ownership.give(parent, name, *owner)
        if member.kind != b"2" and stat.S_IMODE(made.st_mode) != member.mode:
            os.chmod(name, member.mode, dir_fd=parent)  # after chown, which clears setuid bits
        if member.kind == b"5" and member.xattrs:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                _set_xattrs(fd, member)
            finally:
                os.close(fd)
        if member.kind != b"5":  # a directory gets its time at the end
            os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _make(self, member: Member, parent: int, name: str, path: str) -> bool:
        """Make it, in the place of whatever is there; whether this process may make such a thing."""
        try:
            _make_node(member, parent, name)
        except FileExistsError:
            if member.kind == b"5" and stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                ownership.record_in(parent, name, *ownership.ROOT)
                return True
            self._make_room(parent, name, path)
            return self._make(member, parent, name, path)
        except PermissionError:
            if member.kind not in _DEVICES:
                raise
            return False
        return True

    def _make_room(self, parent: int, name: str, path: str) -> None:
        """Remove what stands where something else is to be."""
        try:
            info = os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(info.st_mode):  # it may be on the way to a parent that is kept open
            self._stale = True
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        inroot.remove_tree(parent, name)
        below = path + "/"
        self.implied = {other for other in self.implied if other != path and not other.startswith(below)}
        for other in [other for other in self._directories if other == path or other.startswith(below)]:
            del self._directories[other]


def _write(fd: int, part: memoryview) -> None:
    while part:
        part = part[os.write(fd, part) :]


def _write_pieces(fd: int, member: Member, reader: Reader) -> None:
    """A sparse file: what is stored goes to its places, and the rest is holes."""
    os.ftruncate(fd, member.whole)
    assert member.pieces is not None
    places = iter([piece for piece in member.pieces if piece[1]])
    offset = room = 0
    for part in reader.content():
        while part:
            if not room:
                offset, room = next(places)
                os.lseek(fd, offset, os.SEEK_SET)
            _write(fd, part[:room])
            taken = min(room, len(part))
            part, room = part[taken:], room - taken


def _make_node(member: Member, parent: int, name: str) -> None:
    mode = member.mode & 0o777
    if member.kind == b"5":
        os.mkdir(name, mode, dir_fd=parent)
    elif member.kind == b"2":
        os.symlink(member.link, name, dir_fd=parent)
    elif member.kind == b"6":
        os.mkfifo(name, mode, dir_fd=parent)
    elif member.kind in _DEVICES:
        device = os.makedev(member.major, member.minor)
        os.mknod(name, mode | _DEVICES[member.kind], device, dir_fd=parent)
    else:
        raise Broken(f"{member.name}: members of type {member.kind!r} cannot be unpacked")


def _set_xattrs(fd: int, member: Member) -> None:
    for key, value in member.xattrs.items():
        if key.startswith(_MARKS):
            continue
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):  # moby leaves these out as well
                raise
