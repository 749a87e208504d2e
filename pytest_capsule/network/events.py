"""The forwarder's event loop: descriptors, what to call when one is ready, and what to do again without an event."""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

RETRY = 0.02
"""Seconds until a thing is tried again that no event announces."""


class Loop:
    """An epoll set. ``capacity`` bounds how many connections may be open at once (see :mod:`.forwarder`)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.open = 0
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._soon: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._leaving: list[socket.socket] = []
        self._stopped = False

    def watch(self, sock: socket.socket, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler`` with the event mask when ``sock`` is ready."""
        self._epoll.register(sock, events)
        self._handlers[sock.fileno()] = handler

    def change(self, sock: socket.socket, events: int) -> None:
        """Wait for other events of ``sock`` from now on."""
        self._epoll.modify(sock, events)

    def leave(self, sock: socket.socket) -> None:
        """Wait no more for ``sock`` and close it.

        The descriptor is closed after the events at hand: its number could else be given to a new socket at once, and
        an event of the old one would be taken for the new one's.
        """
        if self._handlers.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock)
        self._leaving.append(sock)

    def soon(self, action: Callable[[], None]) -> None:
        """Call ``action`` after the events at hand."""
        self._soon.append(action)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` in ``seconds``."""
        self._later.append((time.monotonic() + seconds, action))

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped = True

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while not self._stopped:
            for fd, events in self._epoll.poll(self._timeout()):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            for _ in range(len(self._soon)):
                self._soon.popleft()()
            if self._later:
                self._run_due()
            while self._leaving:
                self._leaving.pop().close()

    def close(self) -> None:
        """Close the epoll descriptor and what was left to close."""
        while self._leaving:
            self._leaving.pop().close()
        self._epoll.close()

    def _timeout(self) -> float:
        if self._soon:
            return 0
        if self._later:
            return max(0.0, min(when for when, _ in self._later) - time.monotonic())
        return -1

    def _run_due(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self._later if when <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for action in due:
            action()
