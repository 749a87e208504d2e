"""The question for a connection inside a container, and its answer.

The forwarder asks over the *connector*, a ``SOCK_SEQPACKET`` socket to the container's init: one message, the request
bytes that came with "publish", and with it one end of a fresh ``SOCK_SEQPACKET`` pair. On that end init answers with
one message: ``{"ok": true}`` and the connected socket's descriptor, or ``{"ok": false, "errno": N}``. So answers
need no numbers, may come in any order, and an init that dies has answered: its end is closed.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections import deque

from pytest_capsule._linux import channel

_FD_SIZE = array.array("i").itemsize


class Connector:
    """The asking side. ``request`` is sent as it is. Nothing here waits."""

    def __init__(self, sock: socket.socket, request: bytes) -> None:
        self.socket = sock
        self._request = request
        self._unsent: deque[socket.socket] = deque()

    @property
    def blocked(self) -> bool:
        """Whether questions wait until the container's init has read earlier ones."""
        return bool(self._unsent)

    def ask(self) -> socket.socket:
        """Ask for a connection: the end on which :func:`receive_answer` will find the answer."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._unsent.append(theirs)
        self.flush()
        return ours

    def flush(self) -> None:
        """Send what can be sent. A question that cannot be sent any more is answered by the closing of its end."""
        while self._unsent:
            try:
                # MSG_DONTWAIT and no O_NONBLOCK: the flag would be that of every process that shares the socket.
                send_with_fds(self.socket, self._request, [self._unsent[0].fileno()], socket.MSG_DONTWAIT)
            except OSError as error:
                if is_temporary(error):
                    return
            self._unsent.popleft().close()

    def close(self) -> None:
        """Drop what was not sent. The socket stays."""
        while self._unsent:
            self._unsent.popleft().close()


def is_temporary(error: OSError) -> bool:
    """Whether a send that failed so can succeed later.

    ETOOMANYREFS: as many descriptors are on their way as the user may have open (unix(7)).
    """
    return error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)


def receive_answer(sock: socket.socket) -> socket.socket:
    """The connected socket that init made. Raises :class:`OSError` with init's errno, ECONNRESET if it went away.

    :class:`BlockingIOError` when the answer has not come yet.
    """
    message, fds = receive_with_fds(sock, socket.MSG_DONTWAIT)
    try:
        code = _refusal(message)
        if code == 0 and not fds:
            code = errno.EPROTO
        if code:
            raise OSError(code, os.strerror(code))
        connected = socket.socket(fileno=fds[0])
        del fds[0]
        return connected
    finally:
        for fd in fds:
            os.close(fd)


def _refusal(message: bytes) -> int:
    """The errno in an answer, 0 for a connection."""
    if not message:
        return errno.ECONNRESET
    try:
        answer = channel.decode(message)
    except ValueError:
        return errno.EPROTO
    if answer.get("ok") is True:
        return 0
    error = answer.get("error")
    code = error.get("errno") if isinstance(error, dict) else None
    return code if isinstance(code, int) and code > 0 else errno.EPROTO


def answer_connected(sock: socket.socket, connected: socket.socket) -> None:
    """init's side: hand over ``connected``. That the asker went away meanwhile is no error. Closes neither."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send(sock, {"ok": True}, [connected.fileno()])


def answer_refused(sock: socket.socket, code: int) -> None:
    """init's side: say with which errno the connection failed."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send(sock, channel.failure(OSError(code, os.strerror(code))))


def send_with_fds(sock: socket.socket, message: bytes, fds: list[int], flags: int = 0) -> None:
    """Send one message and descriptors (``SCM_RIGHTS``, unix(7))."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message], ancillary, flags | socket.MSG_NOSIGNAL)


def receive_with_fds(sock: socket.socket, flags: int = 0, size: int = 65536) -> tuple[bytes, list[int]]:
    """One message, ``b""`` at the end, and the descriptors that came with it, close-on-exec.

    Raises :class:`OSError` (EMSGSIZE) for a message that was cut, after closing its descriptors.
    """
    ancillary_size = socket.CMSG_SPACE(8 * _FD_SIZE)
    message, ancillary, answer_flags, _ = sock.recvmsg(size, ancillary_size, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_SIZE])
    if answer_flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    return message, list(fds)
