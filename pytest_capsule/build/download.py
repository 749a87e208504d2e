"""``ADD http://…``: a file as BuildKit keeps what it has fetched (``source/http``): mode 600, root's, of Last-Modified.

Without ``--checksum`` the server is asked in each build; if it gives ETags, whether anything has changed. With it, a
build whose step is in the cache asks nobody.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import posixpath
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_capsule.build.context import Context, Entry, Source
from pytest_capsule.build.execution import StepFailed, step_key
from pytest_capsule.build.folders import HostFolder
from pytest_capsule.build.parts import Piece, is_archive

if TYPE_CHECKING:
    import contextlib
    import http.client
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_capsule.build.remotes import Remotes

_TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20
_FILE = "download"
_NAMELESS = "__unnamed__"


@dataclass(frozen=True, slots=True)
class _Fetched:
    folder: Path
    digest: str
    mtime_ns: int


class Download:
    """One URL. ``checksum`` is a digest or empty."""

    def __init__(self, remotes: Remotes, url: str, checksum: str, *, unpack: bool) -> None:
        self._remotes = remotes
        self._url = url
        self._digest = checksum
        self.unpacks = unpack
        self._fetched: _Fetched | None = None

    def inputs(self) -> Any:
        """Its name and its content."""
        return ["url", self._name(), self._digest or self._current_digest(), self.unpacks]

    def contents(self) -> Mapping[str, str]:
        """By its URL."""
        return {self._shown(): self._digest}

    def pieces(self, opened: contextlib.ExitStack, scratch: Path) -> Sequence[Piece]:
        """The file, fetched now unless it was already."""
        fetched = self._fetched or self._fetch()
        if fetched is None or (self._digest and fetched.digest != self._digest):
            got = fetched.digest if fetched else "nothing"
            raise StepFailed(f"{self._shown()}: digest mismatch: {got} came, {self._digest} was expected")
        context = Context(HostFolder(str(fetched.folder)))
        entry = Entry(self._name(), "f", 0o600, 0, 0, fetched.mtime_ns, _FILE, fetched.digest)
        source = Source(entry.path, False, (entry,))
        return [Piece(source, context, self.unpacks and is_archive(context, source))]

    def _name(self) -> str:
        """What it is called in a directory, whatever the server says."""
        path = urllib.parse.urlsplit(self._url).path
        name = posixpath.basename(urllib.parse.unquote(path).rstrip("/"))
        return _NAMELESS if name in ("", ".", "..") else name

    def _shown(self) -> str:
        """The URL without a password."""
        parts = urllib.parse.urlsplit(self._url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _current_digest(self) -> str:
        """The digest of what the server has now: that of the last time where it says that nothing has changed."""
        memory = step_key("", {"url": self._url})
        known = self._remotes.store.memory(memory)
        self._fetched = self._fetch(etag=known.get("etag"), memory=memory)
        self._digest = self._fetched.digest if self._fetched else known["digest"]
        return self._digest

    def _fetch(self, *, etag: str | None = None, memory: str | None = None) -> _Fetched | None:
        """Fetch it into a folder of its own; ``None`` where it is still that of ``etag``."""
        request = urllib.request.Request(self._url, headers={"User-Agent": "pytest-capsule", **self._authorization()})
        if etag:
            request.add_header("If-None-Match", etag)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                fetched = self._save(answer)
                if memory and answer.headers["ETag"]:
                    self._remotes.store.remember(memory, {"etag": answer.headers["ETag"], "digest": fetched.digest})
                return fetched
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 304 and etag:
                    return None
                raise StepFailed(f"{self._shown()}: {error.code} {error.reason}", hint=_hint(error.code)) from None
        except urllib.error.URLError as error:
            reason = error.reason.strerror if isinstance(error.reason, OSError) else error.reason
            raise StepFailed(f"{self._shown()}: {reason}", hint="is the server reachable from this machine?") from None
        except OSError as error:
            raise StepFailed(f"{self._shown()}: {error.strerror or error}") from None
        except ValueError as error:
            raise StepFailed(f"{self._shown()}: {error}") from None

    def _authorization(self) -> dict[str, str]:
        """BuildKit's secrets for that: ``HTTP_AUTH_HEADER_host`` and ``HTTP_AUTH_TOKEN_host``."""
        host = urllib.parse.urlsplit(self._url).hostname
        if header := self._remotes.secret(f"HTTP_AUTH_HEADER_{host}"):
            return {"Authorization": header}
        token = self._remotes.secret(f"HTTP_AUTH_TOKEN_{host}")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _save(self, answer: http.client.HTTPResponse) -> _Fetched:
        folder = self._remotes.folder()
        algorithm = self._digest.partition(":")[0] or "sha256"
        digest = hashlib.new(algorithm)
        path = folder / _FILE
        with open(path, "wb") as file:
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        moment = _timestamp(answer.headers["Last-Modified"])
        os.utime(path, ns=(moment, moment))
        return _Fetched(folder, f"{algorithm}:{digest.hexdigest()}", moment)


def _timestamp(text: str | None) -> int:
    """Last-Modified in nanoseconds; the beginning of 1970 where there is none."""
    try:
        return int(email.utils.parsedate_to_datetime(text or "").timestamp()) * 10**9
    except ValueError:
        return 0


def _hint(code: int) -> str | None:
    if code in (401, 403):
        return "give the build a secret HTTP_AUTH_TOKEN_host or HTTP_AUTH_HEADER_host, with the host's name"
    return "look whether the URL is right" if code == 404 else None
