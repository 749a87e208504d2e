"""An SSH agent for those in a container: they may list its keys and have it sign, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

# draft-miller-ssh-agent, 5.1: what a message asks for is its first byte.
_REQUEST_IDENTITIES = 11
_SIGN_REQUEST = 13
_FAILURE = b"\0\0\0\1\5"
_LARGEST = 256 * 1024  # what ssh-agent itself takes
_PAUSE = 0.1  # seconds until a connection is tried again that this process had no room for
CONNECTIONS = 64
"""What may be open at a time; a further one waits in the listener's queue until another has ended."""


class AgentRelay:
    """Passes requests from a listening socket on to the agent at ``path``, until it is closed.

    As BuildKit's ``sshprovider``, it lets nobody add, remove or lock keys.
    """

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._places = threading.Semaphore(CONNECTIONS)
        self._threads: set[threading.Thread] = set()
        with self._lock:
            self._threads.add(self._thread(self._accept))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._closed.set()
            for sock in (self._listener, *self._open):
                with contextlib.suppress(OSError):  # it has gone by itself
                    sock.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        self._listener.close()

    def _thread(self, target: Callable[..., None], *args: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="capsule-ssh-agent", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            self._places.acquire()  # one is given back by each connection that ends, and all of them do in the end
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed, or there are too many files open
                self._places.release()
                if self._closed.wait(_PAUSE):
                    return
                continue
            with self._lock:
                if self._closed.is_set():
                    client.close()
                    return
                self._open.add(client)
                self._threads.add(self._thread(self._serve, client))

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as agent:
            with self._lock:
                self._open.add(agent)
            with contextlib.suppress(OSError):  # an agent that has gone fails at everything it is asked
                agent.connect(self._path)
            with contextlib.suppress(OSError):
                while request := _message(client):
                    client.sendall(_answer(agent, request))
            with self._lock:
                self._open.discard(agent)
        with self._lock:
            self._open.discard(client)
            self._threads.discard(threading.current_thread())
        self._places.release()


def _answer(agent: socket.socket, request: bytes) -> bytes:
    if request[4] in (_REQUEST_IDENTITIES, _SIGN_REQUEST):
        with contextlib.suppress(OSError):
            agent.sendall(request)
            return _message(agent) or _FAILURE
    return _FAILURE


def _message(sock: socket.socket) -> bytes:
    """The next message with its length in front; nothing at the end of all, or for what is no message."""
    head = _exactly(sock, 4)
    length = int.from_bytes(head, "big")
    if not 0 < length <= _LARGEST:
        return b""
    body = _exactly(sock, length)
    return head + body if body else b""


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            return b""
        data += piece
    return data
