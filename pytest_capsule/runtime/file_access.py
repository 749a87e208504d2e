"""The files of a container, as a test reads and writes them: each path is resolved by its init, inside."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
from typing import IO, TYPE_CHECKING, Any

from pytest_capsule.errors import UsageError
from pytest_capsule.runtime import transfer
from pytest_capsule.runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


class FileAccess(Sandbox):
    """A sandbox whose files can be reached."""

    def open(self, path: str, mode: str = "r", *, encoding: str = "utf-8", errors: str | None = None) -> IO[Any]:
        """Open a file inside, as ``open`` does; what is created belongs to the container's root.

        A relative path starts at the container's working directory. Errors are those of ``open``:
        ``FileNotFoundError``, ``IsADirectoryError``.
        """
        kind = mode.replace("b", "").replace("t", "").replace("+", "")
        if kind not in _FLAGS or len(set(mode)) != len(mode) or {"b", "t"} <= set(mode):
            raise UsageError(f"open(mode={mode!r}): it is r, w, a or x, with b and +")
        flags = _FLAGS[kind]
        if "+" in mode:
            flags = flags & ~(os.O_RDONLY | os.O_WRONLY) | os.O_RDWR
        _, (fd,) = self._call({"op": "open", "path": self._path(path), "flags": flags, "mode": 0o644})
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        binary = mode.replace("x", "w").replace("t", "").replace("b", "") + "b"
        file = open(fd, binary)  # noqa: SIM115  # the caller's to close
        if "b" in mode:
            return file
        try:
            return io.TextIOWrapper(file, encoding=encoding, errors=errors)
        except BaseException:
            file.close()
            raise

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The text of a file inside."""
        with self.open(path, "r", encoding=encoding) as file:
            content: str = file.read()
            return content

    def read_bytes(self, path: str) -> bytes:
        """The bytes of a file inside."""
        with self.open(path, "rb") as file:
            content: bytes = file.read()
            return content

    def write_text(self, path: str, text: str, encoding: str = "utf-8") -> int:
        """Write a file inside; returns how many characters."""
        with self.open(path, "w", encoding=encoding) as file:
            return file.write(text)

    def write_bytes(self, path: str, data: bytes) -> int:
        """Write a file inside; returns how many bytes."""
        with self.open(path, "wb") as file:
            return file.write(data)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory inside; a symlink that leads nowhere is not."""
        try:
            self._call({"op": "stat", "path": self._path(path), "follow": True})
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    def listdir(self, path: str = "/") -> list[str]:
        """The names in a directory inside, sorted."""
        return [entry["name"] for entry in self._call({"op": "list", "path": self._path(path)})[0]["entries"]]

    def copy_in(self, src: str | os.PathLike[str], dest: str) -> None:
        """Copy a file or folder of the host into the container, as ``docker cp`` does; root owns what arrives.

        A folder copied onto an existing directory lands in it under its name, or, written ``folder/.``, its contents
        do. ``UsageError`` where there is no ``src``.
        """
        transfer.copy_in(self._call, os.fspath(src), self._path(dest) + ("/" if dest.endswith("/") else ""))

    def copy_out(self, src: str, dest: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, as ``docker cp`` does.

        Nothing that the container's tree holds can lead the copy to another place of the host. ``FileNotFoundError``
        where there is no ``src``.
        """
        transfer.copy_out(self._call, self._path(src) + ("/." if src.endswith("/.") else ""), os.fspath(dest))

    def place(self, message: dict[str, Any], roots: Sequence[int]) -> list[str]:
        """Carry out a COPY or ADD that was worked out already: ``runtime.placement.place`` says what it takes.

        Returns what the image lacks to know the owner.
        """
        lacks: list[str] = self._call({"op": "place", **message}, roots)[0]["lacks"]
        return lacks

    def make_directory(self, path: str, *, mode: int = 0o755, user: str = "") -> list[str]:
        """``mkdir -p`` inside; returns what the image lacks to know the owner of what had to be made."""
        lacks: list[str] = self._call({"op": "mkdir", "path": path, "mode": mode, "user": user})[0]["lacks"]
        return lacks

    def claim(self, paths: Sequence[str], *, user: str) -> None:
        """Record a user as the owner of files that have no owner on record, where a single id owns them all."""
        self._call({"op": "claim", "paths": list(paths), "user": user})

    def open_root(self) -> int:
        """A descriptor of the container's root directory, to read from."""
        _, (fd,) = self._call({"op": "open", "path": "/", "flags": os.O_PATH | os.O_DIRECTORY, "mode": 0})
        return fd

    def export(self, directory: int) -> int:
        """Copy the writable layer into the directory behind a descriptor; returns how many entries it has."""
        entries: int = self._call({"op": "export"}, [directory])[0]["entries"]
        return entries

    def _path(self, path: str | os.PathLike[str]) -> str:
        return posixpath.normpath(posixpath.join("/", self.spec.workdir, os.fspath(path)))
