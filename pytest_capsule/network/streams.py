"""One published TCP port: connections from outside, each joined to one made inside by splice(2).

The rules, which make the forwarder as invisible as it can be:

* Bytes go from socket to pipe to socket inside the kernel. A direction takes new bytes only when its pipe is empty, so
  what one side does not read stays with the other side's sender, as on a direct connection.
* The end of one direction is passed on as an end (``shutdown``) after all its bytes; the other direction goes on.
* A reset is passed on as a reset, after the bytes that came before it; also when the inner connection is refused.

Sockets are watched edge-triggered (epoll(7)): each is registered once, its readiness remembered until EAGAIN, and a
hung up socket that has nothing to do at the moment does not wake the loop again and again.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import termios
from typing import TYPE_CHECKING

from pytest_capsule.network.connector import Connector, receive_answer
from pytest_capsule.network.events import RETRY

if TYPE_CHECKING:
    from pytest_capsule.network.events import Loop

UNANSWERED = 128
"""Connections of one port that wait for the container at most; further ones stay in the kernel's queue."""

_CHUNK = 1 << 16  # a pipe's default capacity, pipe(7)
_TURNS = 16  # chunks that one direction moves before the others get their turn
_IDLE_PIPES = 32
_BOTH = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_WRONG = select.EPOLLERR | select.EPOLLHUP
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if hasattr(os, "splice") else 0
_RESET = struct.pack("ii", 1, 0)  # linger: on, for no time


class Pipes:
    """Empty pipes. A direction borrows one only while it has bytes in it, so idle connections cost none."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """The reading and the writing end of an empty pipe."""
        return self._idle.pop() if self._idle else os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def give_back(self, pipe: tuple[int, int], *, empty: bool = True) -> None:
        """Return a pipe; one with bytes in it is closed."""
        if empty and len(self._idle) < _IDLE_PIPES:
            self._idle.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])

    def close(self) -> None:
        """Close the idle ones."""
        while self._idle:
            for fd in self._idle.pop():
                os.close(fd)


class _End:
    """One socket of a connection and what is known of it. ``broken``: a reset came or was met."""

    __slots__ = ("broken", "readable", "socket", "writable")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.readable = False
        self.writable = False
        self.broken = False
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # not TCP
            # Bytes that came together leave together; waiting for more (Nagle) would only add to the delay.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def note(self, events: int) -> None:
        """Remember what epoll said."""
        self.readable = self.readable or bool(events & (select.EPOLLIN | select.EPOLLRDHUP | _WRONG))
        self.writable = self.writable or bool(events & (select.EPOLLOUT | _WRONG))

    def unsent(self) -> int:
        """Bytes that the other side's kernel has not acknowledged (SIOCOUTQ, tcp(7); the same number as TIOCOUTQ)."""
        answer = array.array("i", [0])
        try:
            fcntl.ioctl(self.socket, termios.TIOCOUTQ, answer)
        except OSError:  # not a stream that is still connected: nothing will be sent
            return 0
        return answer[0]


class _Flow:
    """One direction: ``held`` bytes are in ``pipe`` on their way from ``source`` to ``target``."""

    __slots__ = ("_pipes", "ended", "held", "pipe", "source", "target")

    def __init__(self, source: _End, target: _End, pipes: Pipes) -> None:
        self.source = source
        self.target = target
        self.pipe: tuple[int, int] | None = None
        self.held = 0
        self.ended = False
        self._pipes = pipes

    def pump(self) -> bool:
        """Move bytes until one side must be waited for; ``True`` if it stopped only to let others have their turn."""
        for _ in range(_TURNS):
            if not (self._fill() if self.held == 0 else self._drain()):
                return False
        return not self.ended

    def end(self) -> None:
        """Move nothing any more; bytes on their way are dropped."""
        self.ended = True
        if self.pipe is not None:
            self._pipes.give_back(self.pipe, empty=self.held == 0)
            self.pipe, self.held = None, 0

    def _fill(self) -> bool:
        if self.ended or not self.source.readable:
            return False
        if self.pipe is None:
            self.pipe = self._pipes.take()
        try:
            self.held = os.splice(self.source.socket.fileno(), self.pipe[1], _CHUNK, flags=_SPLICE)
        except BlockingIOError:
            self.source.readable = False
            self._pipes.give_back(self.pipe)
            self.pipe = None
            return False
        except OSError:
            self.source.broken = True
        if self.held:
            return True
        self.end()
        self.source.readable = False
        if not self.source.broken:
            with contextlib.suppress(OSError):  # the target is reset already; its own event says so
                self.target.socket.shutdown(socket.SHUT_WR)
        return False

    def _drain(self) -> bool:
        if not self.target.writable or self.pipe is None:
            return False
        try:
            self.held -= os.splice(self.pipe[0], self.target.socket.fileno(), self.held, flags=_SPLICE)
        except BlockingIOError:
            self.target.writable = False
            return False
        except OSError:
            # Only this direction is over: the target may have sent an answer before its reset.
            self.target.broken = True
            self.end()
            return False
        return True


class Stream:
    """One connection: accepted from outside, waiting for its inner socket, joined to it, gone."""

    def __init__(self, port: StreamPort, outer: socket.socket, answer: socket.socket) -> None:
        self._port = port
        self._loop = port.loop
        self._outer = _End(outer)
        self._inner: _End | None = None
        self._answer: socket.socket | None = answer
        self._flows: tuple[_Flow, ...] = ()
        self._closed = False
        self._waiting = False
        self._loop.open += 1
        self._loop.watch(outer, _BOTH, self._on_outer)
        self._loop.watch(answer, select.EPOLLIN, self._on_answer)

    def reset(self) -> None:
        """End the connection at once; both sides see a reset."""
        for end in (self._outer, self._inner):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close()

    def _on_outer(self, events: int) -> None:
        self._outer.note(events)
        if self._inner is not None:
            self._advance()
        elif events & _WRONG:
            self.reset()

    def _on_inner(self, events: int) -> None:
        if self._inner is not None:
            self._inner.note(events)
            self._advance()

    def _on_answer(self, _events: int) -> None:
        answer = self._answer
        if answer is None:
            return
        try:
            inner = receive_answer(answer)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        self._inner = _End(inner)
        self._flows = (
            _Flow(self._outer, self._inner, self._port.pipes),
            _Flow(self._inner, self._outer, self._port.pipes),
        )
        self._forget_answer()
        self._loop.watch(inner, _BOTH, self._on_inner)

    def _advance(self) -> None:
        """Move what can be moved, and see whether the connection is over."""
        if self._closed or not self._flows:
            return
        try:
            again = [flow.pump() for flow in self._flows]
        except OSError:  # no pipe to be had
            self.reset()
            return
        for flow in self._flows:
            self._look_for_late_reset(flow)
        for flow in self._flows:
            if flow.target.broken:
                flow.end()
        if all(flow.ended for flow in self._flows):
            self._finish()
        elif any(again) and not self._waiting:
            self._waiting = True
            self._loop.soon(self._go_on)

    def _go_on(self) -> None:
        self._waiting = False
        self._advance()

    def _look_for_late_reset(self, flow: _Flow) -> None:
        """A side that is reset after its own direction has ended: no read will meet that reset."""
        if flow.ended and flow.source.readable:
            flow.source.readable = False
            if flow.source.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                flow.source.broken = True

    def _finish(self) -> None:
        """Both directions are over: close, or pass a reset on to the side that still stands."""
        standing = [flow.target for flow in self._flows if not flow.target.broken]
        if len(standing) == 2:
            self._close()
        elif not standing or standing[0].unsent() == 0:
            self.reset()
        elif not self._waiting:
            # A reset throws away what is still to send, and no event says that all is acknowledged: ask again.
            self._waiting = True
            self._loop.later(RETRY, self._go_on)

    def _forget_answer(self) -> None:
        if self._answer is not None:
            self._loop.leave(self._answer)
            self._answer = None
            self._port.answered()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for flow in self._flows:
            flow.end()
        for end in (self._outer, self._inner):
            if end is not None:
                self._loop.leave(end.socket)
        self._loop.open -= 1
        self._forget_answer()
        self._port.forget(self)


class StreamPort:
    """A listening socket, the connector to its container, and the connections between."""

    def __init__(self, loop: Loop, listener: socket.socket, connector: Connector, pipes: Pipes) -> None:
        self.loop = loop
        self.pipes = pipes
        self._listener: socket.socket | None = listener
        self._connector: Connector | None = connector
        self._streams: set[Stream] = set()
        self._unanswered = 0
        self._listening = True
        self._retrying = False
        listener.setblocking(False)
        loop.watch(listener, select.EPOLLIN, self._on_listener)
        loop.watch(connector.socket, 0, self._on_connector)

    def close(self) -> None:
        """Close the port and reset its connections."""
        self._stop()
        for stream in tuple(self._streams):
            stream.reset()

    def answered(self) -> None:
        """A stream waits no more for its inner socket."""
        self._unanswered -= 1
        self._update()

    def forget(self, stream: Stream) -> None:
        """A stream is closed."""
        self._streams.discard(stream)
        self._update()

    def _on_listener(self, _events: int) -> None:
        while self._listener is not None and self._connector is not None and self._has_room():
            try:
                outer, _ = self._listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                self._on_accept_error(error)
                break
            self._start(outer, self._connector)
        self._update()

    def _start(self, outer: socket.socket, connector: Connector) -> None:
        try:
            answer = connector.ask()
        except OSError:  # no descriptor to be had
            outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            outer.close()
            return
        self._unanswered += 1
        self._streams.add(Stream(self, outer, answer))

    def _on_accept_error(self, error: OSError) -> None:
        if error.errno == errno.EINVAL:  # somebody shut the listener down
            self._stop()
        elif error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._pause()
            self._update_later()

    def _on_connector(self, events: int) -> None:
        # Only a hang-up is waited for: the container is gone. Its connections end by themselves, since the kernel
        # closes its sockets, and what it sent before that still has to arrive.
        if events & _WRONG:
            self._stop()

    def _has_room(self) -> bool:
        blocked = self._connector is not None and self._connector.blocked
        return not blocked and self._unanswered < UNANSWERED and self.loop.open < self.loop.capacity

    def _pause(self) -> None:
        if self._listener is not None and self._listening:
            self._listening = False
            self.loop.change(self._listener, 0)

    def _update(self) -> None:
        """Listen if there is room, else let the kernel keep the connections."""
        if self._listener is None or self._connector is None:
            return
        if self._connector.blocked:
            self._update_later()
        if not self._has_room():
            self._pause()
            if self.loop.open >= self.loop.capacity:  # room may become free in another port
                self._update_later()
        elif not self._listening:
            self._listening = True
            self.loop.change(self._listener, select.EPOLLIN)

    def _update_later(self) -> None:
        """Try again what no event announces."""
        if not self._retrying:
            self._retrying = True
            self.loop.later(RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if self._connector is not None:
            self._connector.flush()
        self._update()

    def _stop(self) -> None:
        listener, connector = self._listener, self._connector
        self._listener = self._connector = None
        if listener is not None:
            self.loop.leave(listener)
        if connector is not None:
            connector.close()
            self.loop.leave(connector.socket)
