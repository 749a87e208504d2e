"""Unpacks a tar archive beneath a directory, and never outside of it.

``tarfile`` only reads the headers here. Where a member lands is resolved by the kernel inside the root
(``_linux.inroot``): absolute names, ``..`` and symlinked parents stay within it, as in a chroot, which is what Docker
uses (moby, ``pkg/chrootarchive``). What replaces what follows moby's ``pkg/archive``.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import stat
import tarfile
import zlib
from typing import IO, TYPE_CHECKING

from pytest_capsule._linux import inroot, ownership

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

_XATTR = "SCHILY.xattr."
_CHUNK = 1 << 20
Owner = tuple[int, int]
Broken = tarfile.TarError


def is_archive(file: IO[bytes]) -> bool:
    """Whether ``file`` is a tar, plain or compressed with gzip, bzip2 or xz; its position is put back to the start."""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            return archive.next() is not None
    except (tarfile.TarError, EOFError, OSError):
        return False
    finally:
        file.seek(0)


def unpack(file: IO[bytes], root: int, *, owner: Callable[[tarfile.TarInfo], Owner] | None = None) -> int:
    """Unpack the archive ``file`` into the directory descriptor ``root``; returns how many members it had.

    ``owner`` says who owns a member (default: whom the archive names); where there is no such id here it is recorded
    (``_linux.ownership``). Device nodes are left out where the kernel does not let this process make one (a user
    namespace), as Docker does.
    ``tarfile.TarError`` for a broken archive.
    """
    try:
        return _unpack(file, root, owner or (lambda member: (member.uid, member.gid)))
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise tarfile.ReadError(str(error)) from None


def _unpack(file: IO[bytes], root: int, owner: Callable[[tarfile.TarInfo], Owner]) -> int:
    directories: list[tarfile.TarInfo] = []
    count = 0
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member, errors="surrogateescape") as archive:
        for member in archive:
            count += 1
            _place(archive, member, root, owner(member))
            if member.isdir():
                directories.append(member)
            archive.members = []  # type: ignore[attr-defined]  # a stream is read once: do not keep every header
    for member in reversed(directories):  # what was written into them has changed their times
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _directory_itself(root, member) as (fd, name):
            os.utime(name, ns=_times(member), dir_fd=fd, follow_symlinks=False)
    return count


class _Member(tarfile.TarInfo):
    """A header that is damaged: ``tarfile`` takes one after the first for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


def _inside(name: str) -> str:
    """A member's name, or that of a hard link's target, as a path from the root."""
    return os.path.normpath("/" + name.lstrip("/"))


@contextlib.contextmanager
def _directory_itself(root: int, member: tarfile.TarInfo) -> Iterator[tuple[int, str]]:
    path = _inside(member.name)
    if path == "/":
        yield root, "."
        return
    with inroot.parent(root, path) as found:
        yield found


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, root: int, owner: Owner) -> None:
    path = _inside(member.name)
    if path == "/":
        if member.isdir():
            ownership.give(root, ".", *owner)
            os.chmod(".", stat.S_IMODE(member.mode), dir_fd=root)
        return
    try:
        with inroot.parent(root, path) as (parent, name):
            _create(archive, member, parent, name, root, owner)
    except FileNotFoundError:
        inroot.make_directories(root, os.path.dirname(path), owner=(os.geteuid(), os.getegid()))
        with inroot.parent(root, path) as (parent, name):
            _create(archive, member, parent, name, root, owner)


def _create(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str, root: int, owner: Owner) -> None:
    _make_room(parent, name, for_directory=member.isdir())
    if member.isdir():
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            ownership.record_in(parent, name, *ownership.ROOT)
    elif member.isreg():
        _write_file(archive, member, parent, name)
    elif member.issym():
        os.symlink(member.linkname, name, dir_fd=parent)
    elif member.islnk():
        with inroot.parent(root, _inside(member.linkname)) as (source, source_name):
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        return  # it has the owner, mode and time of the file it is
    elif not _make_node(member, parent, name):
        return
    ownership.give(parent, name, *owner)
    if not member.issym():  # after chown, which clears setuid bits
        os.chmod(name, stat.S_IMODE(member.mode), dir_fd=parent)
    _set_xattrs(parent, name, member)
    os.utime(name, ns=_times(member), dir_fd=parent, follow_symlinks=False)


def _make_room(parent: int, name: str, *, for_directory: bool) -> None:
    try:
        info = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=parent)
    elif not for_directory:
        remove_tree(parent, name)


def remove_tree(parent: int, name: str) -> None:
    """``rm -rf`` of a directory by descriptors, so that nothing swapped for a symlink meanwhile is followed."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(fd, entry.name)
                else:
                    os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _write_file(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"{member.name}: no content")
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with open(fd, "wb", buffering=0) as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)


def _make_node(member: tarfile.TarInfo, parent: int, name: str) -> bool:
    if member.isfifo():
        os.mkfifo(name, 0o600, dir_fd=parent)
        return True
    kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
    if not (member.ischr() or member.isblk()):
        raise tarfile.ReadError(f"{member.name}: members of type {member.type!r} cannot be unpacked")
    try:
        os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
    except PermissionError:
        return False
    return True


def _set_xattrs(parent: int, name: str, member: tarfile.TarInfo) -> None:
    xattrs = {key[len(_XATTR) :]: value for key, value in member.pax_headers.items() if key.startswith(_XATTR)}
    if not xattrs or not (member.isreg() or member.isdir()):
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for key, value in xattrs.items():
            try:
                os.setxattr(fd, key, value.encode("utf-8", "surrogateescape"))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):  # moby leaves these out as well
                    raise
    finally:
        os.close(fd)


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    seconds = member.pax_headers.get("mtime")
    whole, _, fraction = seconds.partition(".") if seconds else (str(int(member.mtime)), "", "")
    nanoseconds = int(whole) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    return nanoseconds, nanoseconds
