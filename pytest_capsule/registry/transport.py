"""HTTP to any number of hosts: one request and one response at a time, over connections that are kept for the next.

Neither retries nor redirects nor credentials: those are ``host``'s. The standard library's ``http.client`` does it.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from pytest_capsule.registry.proxies import Proxy, proxy_for
from pytest_capsule.registry.settings import RegistrySettings
from pytest_capsule.registry.trust import Trust

_PORTS = {"http": 80, "https": 443}
_TIMEOUT = 60.0
_BLOCK = 1 << 17
_KEPT = 8
# A connection whose response is not read to its end cannot be used again; a short rest is read to keep it.
_REST = 1 << 16
# All that may stand in a URL (RFC 3986); what else one has in it is escaped.
_URL_LETTERS = "%:/?#[]@!$&'()*+,;=~"
AGENT = "pytest-capsule"

_Connection = http.client.HTTPConnection
_Place = tuple[str, str]


def address(text: str, base: str = "") -> str | None:
    """The address that somebody else names, absolute or relative to ``base``; ``None`` for what is none of HTTP."""
    try:
        url = quote(urljoin(base, text), safe=_URL_LETTERS)
        parts = urlsplit(url)
        is_address = parts.scheme in _PORTS and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return url if is_address else None


class ConnectionFailed(Exception):
    """No answer, or only a part of one came. ``lasting``: the same will happen again."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


class Readable(Protocol):
    """What a body is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end."""

    def close(self) -> None:
        """Be done with it."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: ``size`` bytes of what ``open`` gives, which is called once for each attempt."""

    size: int
    open: Callable[[], Readable]


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Body | None = None


class Response:
    """An answer: its ``status``, ``headers``, the ``url`` it came from; its body is read once. Close it."""

    def __init__(self, raw: http.client.HTTPResponse, url: str, release: Callable[[bool], None]) -> None:
        self._raw = raw
        self._release: Callable[[bool], None] | None = release
        self.url = url
        self.status = raw.status
        self.reason = raw.reason
        self.headers: Message = raw.headers

    def read(self, limit: int) -> bytes:
        """At most ``limit`` bytes of the body, fewer only at its end."""
        parts = []
        while limit > 0 and (part := self._read(limit)):
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        while chunk := self._read(_BLOCK):
            yield chunk

    def _read(self, limit: int) -> bytes:
        with _translated():
            data = self._raw.read(min(limit, _BLOCK))
        if not data and self._raw.length:
            raise ConnectionFailed("the answer ended early")
        return data

    def close(self) -> None:
        """Give the connection back for the next request, if it can serve one more."""
        release, self._release = self._release, None
        if release is None:
            return
        with contextlib.suppress(ConnectionFailed):
            self.read(_REST)
        release(self._raw.isclosed() and not self._raw.will_close)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """Sends requests. Safe from any thread: each connection serves one at a time."""

    def __init__(
        self, settings: RegistrySettings, trust: Trust, environment: Mapping[str, str], *, timeout: float = _TIMEOUT
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._environment = environment
        self._timeout = timeout
        self._idle: dict[_Place, list[_Connection]] = {}
        self._lock = threading.Lock()

    def send(self, request: Request) -> Response:
        """Send a request and return what comes back; ``ConnectionFailed`` where nothing does."""
        parts = urlsplit(request.url)
        place = parts.scheme, parts.netloc
        connection, proxy = self._connection(parts)
        try:
            with _translated():
                raw = self._exchange(connection, request, parts, proxy)
        except BaseException:
            connection.close()
            raise
        return Response(raw, request.url, lambda reusable: self._release(place, connection, reusable))

    def _exchange(
        self, connection: _Connection, request: Request, parts: SplitResult, proxy: Proxy | None
    ) -> http.client.HTTPResponse:
        target = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", **request.headers}
        if proxy is not None and parts.scheme == "http":
            target = parts._replace(fragment="").geturl()
            if proxy.authorization:
                headers["Proxy-Authorization"] = proxy.authorization
        with contextlib.ExitStack() as stack:
            body: bytes | Readable | None
            if isinstance(request.body, Body):
                headers["Content-Length"] = str(request.body.size)
                body = stack.enter_context(contextlib.closing(request.body.open()))
            else:
                body = request.body
            # Whoever refuses a large body may answer before it has all of it, and close: the answer counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(request.method, target, body=body, headers=headers)
        return connection.getresponse()

    def _connection(self, parts: SplitResult) -> tuple[_Connection, Proxy | None]:
        """An idle connection that the other side has not closed meanwhile, or a new one."""
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        proxy = proxy_for(parts.scheme, host, port, self._environment)
        with self._lock:
            idle = self._idle.get((parts.scheme, parts.netloc), [])
            while idle:
                connection = idle.pop()
                if not _has_ended(connection):
                    return connection, proxy
                connection.close()
        return self._new_connection(parts, host, port, proxy), proxy

    def _new_connection(self, parts: SplitResult, host: str, port: int, proxy: Proxy | None) -> _Connection:
        near_host, near_port = (host, port) if proxy is None else (proxy.host, proxy.port)
        if parts.scheme == "http":
            return _Connection(near_host, near_port, timeout=self._timeout, blocksize=_BLOCK)
        context = self._trust.context(parts.netloc, verify=not self._settings.is_insecure(parts.netloc))
        connection = http.client.HTTPSConnection(
            near_host, near_port, timeout=self._timeout, context=context, blocksize=_BLOCK
        )
        if proxy is not None:
            headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
            connection.set_tunnel(host, port, headers)
        return connection

    def _release(self, place: _Place, connection: _Connection, reusable: bool) -> None:
        with self._lock:
            idle = self._idle.setdefault(place, [])
            if reusable and len(idle) < _KEPT:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()


def _has_ended(connection: _Connection) -> bool:
    """Whether the other side has hung up, or says what nobody has asked for."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Failures of sockets, of TLS and of HTTP's form, in one exception."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConnectionFailed(f"its certificate is not trusted: {error.verify_message}", lasting=True) from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise ConnectionFailed(f"TLS failed: {reason}", lasting="EOF" not in str(error)) from error
    except http.client.IncompleteRead as error:
        raise ConnectionFailed("the answer ended early") from error
    except http.client.HTTPException as error:
        raise ConnectionFailed(f"no HTTP answer ({type(error).__name__})") from error
    except UnicodeError as error:  # of the codec "idna"
        raise ConnectionFailed("no host can have that name", lasting=True) from error
    except ValueError as error:  # http.client's, of a chunk of less than nothing
        raise ConnectionFailed("no HTTP answer") from error
    except TimeoutError as error:
        raise ConnectionFailed("it did not answer in time") from error
    except OSError as error:
        lasting = isinstance(error, (ConnectionRefusedError, socket.gaierror))
        raise ConnectionFailed(error.strerror or str(error), lasting=lasting) from error
