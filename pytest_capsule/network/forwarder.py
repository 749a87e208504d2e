"""The forwarder: one process that carries every published port's bytes, and the messages by which it is told which.

Over the *control* socket (``SOCK_SEQPACKET``) go, each answered by one message:

* ``{"do": "publish", "key": K}``, a newline and the request bytes, with two descriptors: the listening (TCP) or bound
  (UDP) socket, and the connector to the container's init (:mod:`.connector`);
* ``{"do": "unpublish", "key": K}``: the port and its connections are closed when the answer comes.

An answer is ``{"ok": true}`` or ``{"ok": false, "errno": N}``. The end of the control socket ends the process, and with
it every port.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
from typing import TYPE_CHECKING

from pytest_capsule.network.connector import Connector, receive_with_fds, send_with_fds
from pytest_capsule.network.datagrams import DatagramPort
from pytest_capsule.network.events import Loop
from pytest_capsule.network.streams import Pipes, StreamPort

if TYPE_CHECKING:
    from typing import Any

_FDS_OF_A_CONNECTION = 6  # two sockets, two pipes


def publish(
    control: socket.socket, key: str, listener: socket.socket, connector: socket.socket, request: bytes
) -> None:
    """Let the forwarder at the other end of ``control`` serve ``listener`` with connections made by ``connector``.

    ``request`` is what is sent to the container's init for each connection; ``key`` names the port for
    :func:`unpublish`. Both sockets stay the caller's; it should close its ``listener``. Raises :class:`OSError`.
    """
    message = json.dumps({"do": "publish", "key": key}).encode() + b"\n" + request
    send_with_fds(control, message, [listener.fileno(), connector.fileno()])
    _read_answer(control, key)


def unpublish(control: socket.socket, key: str) -> None:
    """Close a port and its connections; they are closed when this returns. A port that is gone is no error."""
    control.send(json.dumps({"do": "unpublish", "key": key}).encode())
    _read_answer(control, key)


def serve(control: socket.socket) -> None:
    """Serve until ``control`` ends. For a process of its own, single-threaded, with no other descriptors to keep.

    It takes as many open files as it is allowed to (the soft limit is for programs that use ``select``).
    """
    control.settimeout(None)  # with a timeout of its own Python would wait even where MSG_DONTWAIT says not to
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    if allowed == resource.RLIM_INFINITY:
        allowed = 1 << 20
    forwarder = _Forwarder(control, capacity=max(1, (allowed - allowed // 4) // _FDS_OF_A_CONNECTION))
    try:
        forwarder.run()
    finally:
        forwarder.close()


class _Forwarder:
    def __init__(self, control: socket.socket, capacity: int) -> None:
        self._control = control
        self._loop = Loop(capacity)
        self._pipes = Pipes()
        self._ports: dict[str, StreamPort | DatagramPort] = {}
        self._loop.watch(control, select.EPOLLIN, self._on_control)

    def run(self) -> None:
        self._loop.run()

    def close(self) -> None:
        for port in self._ports.values():
            port.close()
        self._pipes.close()
        self._loop.close()

    def _on_control(self, _events: int) -> None:
        try:
            message, fds = receive_with_fds(self._control, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            self._loop.stop()
            return
        except OSError as error:
            self._answer(error.errno or errno.EIO)
            return
        if not message:
            self._loop.stop()
            return
        try:
            self._obey(message, fds)
        except OSError as error:
            self._answer(error.errno or errno.EIO)
        else:
            # After the events at hand, when the sockets of a closed port are closed too.
            self._loop.soon(lambda: self._loop.soon(self._answer))
        finally:
            for fd in fds:
                os.close(fd)

    def _obey(self, message: bytes, fds: list[int]) -> None:
        """Do what a message says, taking the descriptors that it uses out of ``fds``."""
        header, _, request = message.partition(b"\n")
        try:
            order = json.loads(header)
            action, key = order["do"], str(order["key"])
        except (ValueError, KeyError, TypeError):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG)) from None
        if action == "unpublish":
            self._unpublish(key)
        elif action == "publish" and len(fds) == 2:
            self._publish(key, fds, request)
        else:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))

    def _publish(self, key: str, fds: list[int], request: bytes) -> None:
        if key in self._ports:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), key)
        with contextlib.ExitStack() as undo:
            sockets = []
            while fds:
                sockets.append(undo.enter_context(socket.socket(fileno=fds[0])))
                del fds[0]
            outer, connector = sockets
            if outer.type == socket.SOCK_DGRAM:
                self._ports[key] = DatagramPort(self._loop, outer, Connector(connector, request))
            else:
                self._ports[key] = StreamPort(self._loop, outer, Connector(connector, request), self._pipes)
            undo.pop_all()

    def _unpublish(self, key: str) -> None:
        port = self._ports.pop(key, None)
        if port is not None:
            port.close()

    def _answer(self, code: int = 0) -> None:
        answer: dict[str, Any] = {"ok": False, "errno": code} if code else {"ok": True}
        # One who sends orders and never reads an answer is not waited for.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(answer).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _read_answer(control: socket.socket, key: str) -> None:
    message = control.recv(4096)
    if not message:
        raise OSError(errno.EPIPE, "the forwarder has ended", key)
    answer = json.loads(message)
    if not answer["ok"]:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), key)
