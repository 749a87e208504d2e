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
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STREAMS = ("stdout", "stderr", "both")
LIMIT = 64 << 20
"""Bytes of memory for one main process' output, the latest: a server that babbles must not eat the tests' own."""

COST = 128
"""Bytes that a piece of output takes beside what it says: of one that comes letter by letter it is nearly all."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output: ``time`` is seconds since the epoch when it was read."""

    time: float
    stream: str
    data: bytes


class Log:
    """The output of one main process. ``ended`` is a descriptor that becomes readable when that has ended."""

    def __init__(self, stdout: int, stderr: int, ended: int | None = None, *, limit: int = LIMIT) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._open = {stdout: "stdout", stderr: "stderr"}
        # Edge-triggered it tells of each pipe once, in the order in which they got something to read.
        self._order = select.epoll()
        self._hung_up: set[int] = set()
        self._ended = ended
        self._over = False
        self._limit = limit
        self._chunks: deque[Chunk] = deque()
        self._first = 0  # the number of the first chunk that is still there
        self._size = 0
        self._moment = 0
        for fd in self._open:
            os.set_blocking(fd, False)
            self._order.register(fd, select.EPOLLIN | select.EPOLLET)

    def descriptors(self) -> list[int]:
        """What is to be watched: the pipes that are still open, and the end of the process."""
        with self._changed:
            return [*self._open, *([] if self._ended is None else [self._ended])]

    def drain(self) -> list[int]:
        """Read what is there without waiting; returns the pipes that have ended, which are closed by ``end``."""
        with self._changed:
            for fd, events in self._order.poll(0) if self._open else ():
                self._read(fd)
                if events & select.EPOLLHUP:
                    self._hung_up.add(fd)
            return list(self._hung_up)

    def _read(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            # All that is there now, at once: what comes later may come after something in the other pipe.
            data = os.read(fd, fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ))
            if data:
                self._keep(Chunk(time.time(), self._open[fd], data))

    def _keep(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._size += COST + len(chunk.data)
        while self._size > self._limit and len(self._chunks) > 1:
            self._size -= COST + len(self._chunks.popleft().data)
            self._first += 1
        self.wake()

    def end(self, fd: int) -> None:
        """Close one pipe; of the process' end, only stop waiting for it."""
        with self._changed:
            if fd == self._ended:
                self._ended, self._over = None, True
            elif self._open.pop(fd, None):
                self._order.unregister(fd)
                self._hung_up.discard(fd)
                os.close(fd)
                if not self._open:
                    self._order.close()
            self.wake()

    def is_end(self, fd: int) -> bool:
        """Whether a descriptor is that of the process' end."""
        return fd == self._ended

    def data(self, stream: str) -> bytes:
        """All that ``stdout``, ``stderr`` or ``both`` have got until now, as far as it is kept."""
        self.drain()
        with self._changed:
            return b"".join(chunk.data for chunk in self._chunks if stream in ("both", chunk.stream))

    def stamped(self, stream: str) -> bytes:
        """The same, each line after the time at which its beginning was read, as ``docker logs -t`` writes it."""
        self.drain()
        with self._changed:
            chunks = list(self._chunks)
        lines: list[bytes] = []
        unfinished: dict[str, int] = {}
        for chunk in chunks:
            if stream not in ("both", chunk.stream):
                continue
            for part in chunk.data.splitlines(keepends=True):
                place = unfinished.pop(chunk.stream, None)
                if place is None:
                    place = len(lines)
                    lines.append(_stamp(chunk.time))
                lines[place] += part
                if not part.endswith(b"\n"):
                    unfinished[chunk.stream] = place
        return b"".join(lines)

    def follow(self, stream: str, given_up: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Every line from the first that is kept, as it comes, until the process or both pipes have ended.

        Or until ``given_up``, which is asked after each ``wake``.
        """
        rests: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        number = 0
        while True:
            with self._changed:
                while True:
                    over = (
                        self._over or not self._open or given_up()
                    )  # asked first: what was written before is drained after
                    self.drain()
                    if over or self._first + len(self._chunks) > number:
                        break
                    self._changed.wait()
                number = max(number, self._first)
                fresh = list(self._chunks)[number - self._first :]
            if not fresh:
                break
            number += len(fresh)
            for chunk in fresh:
                if stream in ("both", chunk.stream):
                    *lines, rests[chunk.stream] = (rests[chunk.stream] + chunk.data).split(b"\n")
                    yield from (line + b"\n" for line in lines)
        yield from (rest for rest in rests.values() if rest)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def moment(self) -> int:
        """A number that changes with everything that happens: output, and the end of the process."""
        with self._changed:
            return self._moment

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self._changed:
            self._moment += 1
            self._changed.notify_all()

    def wait_change(self, moment: int, timeout: float) -> None:
        """Wait until something has happened since ``moment``, for ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._moment != moment, timeout)


def _stamp(seconds: float) -> bytes:
    """RFC 3339 with nanoseconds, in UTC."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z ".encode()


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
                    if log is not None and (fd in log.drain() or log.is_end(fd)):
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
