"""What a main process prints: read as it comes, kept in order, each stream told apart.

One thread an engine empties the pipes of all its containers, so that no server ever blocks on a full pipe. Who asks for
logs reads what is there himself first, so that everything written before the question is in the answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
import time
from dataclasses import dataclass

_CHUNK = 1 << 16
STREAMS = ("stdout", "stderr", "both")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output: ``time`` is seconds since the epoch when it was read."""

    time: float
    stream: str
    data: bytes


class Log:
    """The output of one main process."""

    def __init__(self, stdout: int, stderr: int) -> None:
        self._lock = threading.Lock()
        self._open = {stdout: "stdout", stderr: "stderr"}
        self._chunks: list[Chunk] = []
        for fd in self._open:
            os.set_blocking(fd, False)

    def descriptors(self) -> list[int]:
        """The pipes that are still open."""
        with self._lock:
            return list(self._open)

    def drain(self) -> list[int]:
        """Read what is there without waiting; returns the pipes that have ended, which are closed by ``end``."""
        ended = []
        with self._lock:
            for fd, stream in list(self._open.items()):
                if not self._read_all(fd, stream):
                    ended.append(fd)
        return ended

    def _read_all(self, fd: int, stream: str) -> bool:
        left = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)  # all that is there now: who writes for ever is not waited for
        while left > 0:
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            left -= len(data)
            self._chunks.append(Chunk(time.time(), stream, data))
        return True

    def end(self, fd: int) -> None:
        """Close one pipe."""
        with self._lock:
            if self._open.pop(fd, None):
                os.close(fd)

    def data(self, stream: str) -> bytes:
        """All that ``stdout``, ``stderr`` or ``both`` have got until now."""
        self.drain()
        with self._lock:
            return b"".join(chunk.data for chunk in self._chunks if stream in ("both", chunk.stream))


class LogPump:
    """The thread that empties the pipes; started with the first main process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[int, Log] = {}
        self._epoll: select.epoll | None = None
        self._stop = -1
        self._thread: threading.Thread | None = None

    def watch(self, log: Log) -> None:
        """Empty the pipes of ``log`` until they end or ``forget``."""
        with self._lock:
            if self._epoll is None:
                self._epoll = select.epoll()
                self._stop = os.eventfd(0)
                self._epoll.register(self._stop, select.EPOLLIN)
                self._thread = threading.Thread(target=self._run, name="capsule-logs", daemon=True)
                self._thread.start()
            for fd in log.descriptors():
                self._logs[fd] = log
                self._epoll.register(fd, select.EPOLLIN)

    def forget(self, log: Log) -> None:
        """Read the last of ``log`` and close its pipes."""
        log.drain()
        with self._lock:
            for fd in log.descriptors():
                self._drop(fd, log)

    def _drop(self, fd: int, log: Log) -> None:
        if self._logs.pop(fd, None) is not None and self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
        log.end(fd)

    def _run(self) -> None:
        epoll, stop = self._epoll, self._stop
        while epoll is not None:
            for fd, _ in epoll.poll():
                if fd == stop:
                    return
                with self._lock:
                    log = self._logs.get(fd)
                    if log is not None and fd in log.drain():
                        self._drop(fd, log)

    def close(self) -> None:
        """End the thread."""
        thread, epoll = self._thread, self._epoll
        if thread is None or epoll is None:
            return
        os.write(self._stop, (1).to_bytes(8, "little"))
        thread.join()
        with self._lock:
            for fd, log in list(self._logs.items()):
                self._drop(fd, log)
            epoll.close()
            os.close(self._stop)
            self._thread = self._epoll = None
