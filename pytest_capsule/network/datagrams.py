"""One published UDP port: an inner connected socket for each client outside, forgotten after a time of silence.

UDP may lose datagrams, and so may this: what a full queue would make wait is dropped, as a router would.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING

from pytest_capsule.network.connector import Connector, receive_answer
from pytest_capsule.network.events import RETRY

if TYPE_CHECKING:
    from typing import Any

    from pytest_capsule.network.events import Loop

    _Address = tuple[Any, ...]

IDLE = 90.0
"""Seconds of silence after which a client is forgotten; docker-proxy's figure (UDPConnTrackTimeout)."""

CLIENTS = 1024
"""Clients of one port; a further one takes the place of the one that was silent longest."""

_EARLY = 64  # datagrams kept for a client whose inner socket is still being made
_TURN = 64  # datagrams read from one socket before the others get their turn
_LARGEST = 65535
_WRONG = select.EPOLLERR | select.EPOLLHUP


class _Client:
    """One client outside: its address, its inner socket once it is there, and what it sent before."""

    def __init__(self, address: _Address, answer: socket.socket) -> None:
        self.address = address
        self.answer: socket.socket | None = answer
        self.inner: socket.socket | None = None
        self.early: list[bytes] = []
        self.heard = time.monotonic()


class DatagramPort:
    """A bound UDP socket, the connector to its container, and the clients that were heard."""

    def __init__(self, loop: Loop, outer: socket.socket, connector: Connector, idle: float = IDLE) -> None:
        self._loop = loop
        self._outer: socket.socket | None = outer
        self._connector = connector
        self._idle = idle
        self._clients: dict[_Address, _Client] = {}  # in the order in which they were heard last
        self._sweeping = False
        outer.setblocking(False)
        loop.watch(outer, select.EPOLLIN, self._on_outer)
        loop.watch(connector.socket, 0, self._on_connector)

    def close(self) -> None:
        """Close the port and forget its clients."""
        if self._outer is None:
            return
        for client in tuple(self._clients.values()):
            self._forget(client)
        self._connector.close()
        self._loop.leave(self._connector.socket)
        self._loop.leave(self._outer)
        self._outer = None

    def _on_connector(self, events: int) -> None:
        if events & _WRONG:  # the container is gone
            self.close()

    def _on_outer(self, _events: int) -> None:
        for _ in range(_TURN):
            if self._outer is None:
                return
            try:
                data, address = self._outer.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier answer; the port itself is well
                continue
            client = self._client(address)
            if client is not None:
                self._send_in(client, data)

    def _client(self, address: _Address) -> _Client | None:
        client = self._clients.pop(address, None) or self._new_client(address)
        if client is not None:
            client.heard = time.monotonic()
            self._clients[address] = client
        return client

    def _new_client(self, address: _Address) -> _Client | None:
        if len(self._clients) >= CLIENTS or (self._clients and self._loop.open >= self._loop.capacity):
            self._forget(next(iter(self._clients.values())))
        if self._connector.blocked or self._loop.open >= self._loop.capacity:
            return None
        try:
            answer = self._connector.ask()
        except OSError:  # no descriptor to be had
            return None
        client = _Client(address, answer)
        self._flush_later()
        self._loop.open += 1
        self._loop.watch(answer, select.EPOLLIN, lambda _events: self._on_answer(client))
        self._sweep_later()
        return client

    def _on_answer(self, client: _Client) -> None:
        if client.answer is None:
            return
        try:
            inner = receive_answer(client.answer)
        except BlockingIOError:
            return
        except OSError:
            self._forget(client)  # the next datagram asks again
            return
        self._loop.leave(client.answer)
        client.answer, client.inner = None, inner
        inner.setblocking(False)
        self._loop.watch(inner, select.EPOLLIN, lambda _events: self._on_inner(client))
        for data in client.early:
            self._send_in(client, data)
        client.early.clear()

    def _send_in(self, client: _Client, data: bytes) -> None:
        if client.inner is None:
            if len(client.early) < _EARLY:
                client.early.append(data)
            return
        # A full queue or an inner port where nobody listens (ECONNREFUSED): lost, as UDP may be.
        with contextlib.suppress(OSError):
            client.inner.send(data)

    def _on_inner(self, client: _Client) -> None:
        for _ in range(_TURN):
            if client.inner is None or self._outer is None:
                return
            try:
                data = client.inner.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                continue
            client.heard = time.monotonic()
            with contextlib.suppress(OSError):
                self._outer.sendto(data, client.address)

    def _flush_later(self) -> None:
        if self._connector.blocked:
            self._loop.later(RETRY, self._flush)

    def _flush(self) -> None:
        self._connector.flush()
        self._flush_later()

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.later(self._idle / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        oldest = time.monotonic() - self._idle
        for client in [client for client in self._clients.values() if client.heard < oldest]:
            self._forget(client)
        if self._clients:
            self._sweep_later()

    def _forget(self, client: _Client) -> None:
        if self._clients.get(client.address) is client:
            del self._clients[client.address]
        for sock in (client.answer, client.inner):
            if sock is not None:
                self._loop.leave(sock)
        client.answer = client.inner = None
        client.early.clear()
        self._loop.open -= 1
