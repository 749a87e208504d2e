"""Messages with descriptors between engine, supervisor and the init of each container.

One ``SOCK_SEQPACKET`` datagram is one message: a JSON object, and descriptors by ``SCM_RIGHTS``. A request brings a
socket of its own for the answers, as its first descriptor, so that any number of threads can ask at once and nobody
ever sorts answers. What is too large for a datagram travels as a memory file.
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Message = dict[str, Any]

_DATAGRAM = 64 * 1024
_LARGEST = 256 << 20  # bytes of a message that travels as a file
# One byte before the JSON, so that a message that travels as a file is not an empty datagram: those look like the end.
_MARK = b"="
_DESCRIPTORS = 253  # SCM_MAX_FD of the kernel
_CUT = int(socket.MSG_CTRUNC)  # as an enum it would be one again with each operation
_GONE = "the other side is gone"
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one each time, and this is on the hot path
_DECODER = json.JSONDecoder()
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
_ANCILLARY = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def is_own(sock: socket.socket) -> bool:
    """Whether a process of this user is at the other end."""
    sent = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(sent)[1] == os.geteuid())


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here. ``OSError`` (EPIPE) when the other side is gone."""
    data = encode(message)
    if len(data) <= _DATAGRAM:
        _send(sock, data, descriptors)
        return
    large = os.memfd_create("message")
    try:
        with open(large, "wb", closefd=False) as file:
            file.write(data)
        _send(sock, _MARK, [*descriptors, large])
    finally:
        os.close(large)


def encode(message: Message) -> bytes:
    """A message as the bytes of its datagram."""
    return _MARK + _ENCODER.encode(message).encode()


def decode(data: bytes) -> Message:
    """The message in the bytes of a datagram; ``ValueError`` for what is none."""
    try:
        text = data.removeprefix(_MARK).decode()
        message, end = _DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("it is too deep") from None
    if not isinstance(message, dict) or end != len(text):
        raise ValueError("it is no object")
    return message


def _send(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
    except ConnectionResetError:  # it went without reading what it had been sent
        raise BrokenPipeError(errno.EPIPE, _GONE) from None
    except OSError as error:
        if error.errno == errno.EBADF and sock.fileno() < 0:  # another thread of ours has closed it
            raise BrokenPipeError(errno.EPIPE, _GONE) from None
        raise


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors, which the caller now owns; ``None`` when the other side is gone.

    ``OSError`` when this process has no room for the descriptors (EMFILE), or what came is no message (EBADMSG), as
    from an init that was taken over: it is lost then, and nothing else.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(_DATAGRAM, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    descriptors = array.array("i")
    for _, _, rights in ancillary:
        descriptors.frombytes(rights[: len(rights) - len(rights) % descriptors.itemsize])
    received = list(descriptors)
    if flags & _CUT:
        close(received)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "recvmsg")
    if not data:
        close(received)
        return None
    try:
        return decode(_content(received) if data == _MARK else data), received
    except (ValueError, OSError):
        close(received)
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), "recvmsg") from None


def _content(descriptors: list[int]) -> bytes:
    """What the last of the descriptors holds, which is taken: a file, and nothing that could be waited for."""
    if not descriptors:
        raise ValueError("there is no file")
    file = descriptors.pop()
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _LARGEST:
            raise ValueError("it is no file of ours")
        return os.pread(file, info.st_size, 0)
    finally:
        os.close(file)


def close(descriptors: list[int]) -> None:
    """Close the descriptors of a message, which was received or is sent."""
    for fd in descriptors:
        os.close(fd)


def failure(error: BaseException) -> Message:
    """An exception as a message."""
    if isinstance(error, OSError):
        return {"error": {"errno": error.errno or 0, "strerror": error.strerror or str(error), "on": error.filename}}
    if isinstance(error, RecursionError):  # what walks a tree goes as deep as that does
        return {"error": {"errno": errno.ELOOP, "strerror": "directories lie too deep in each other", "on": None}}
    return {"error": {"errno": 0, "strerror": f"{type(error).__name__}: {error}", "on": None}}


def raise_failure(message: Message) -> None:
    """Raise the ``OSError`` that a message carries, if it carries one."""
    if error := message.get("error"):
        raise OSError(error["errno"], error["strerror"], error["on"])


def ask(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> socket.socket:
    """Send ``message`` with an answer socket of its own and give the end on which the answers come."""
    ours, theirs = pair()
    with theirs:
        try:
            send(sock, message, [theirs.fileno(), *descriptors])
        except BaseException:
            ours.close()
            raise
    return ours


def call(
    sock: socket.socket, message: Message, descriptors: Sequence[int] = (), *, timeout: float | None = None
) -> tuple[Message, list[int]]:
    """Ask and wait for the one answer; ``OSError`` when the other side failed at it, EPIPE when it is gone."""
    with ask(sock, message, descriptors) as answers:
        return answer(answers, timeout)


def answer(answers: socket.socket, timeout: float | None = None) -> tuple[Message, list[int]]:
    """The next answer of a request; ``TimeoutError`` after ``timeout`` seconds without one."""
    if timeout is not None:
        ready = select.poll()
        ready.register(answers, select.POLLIN)
        if not ready.poll(max(0.0, timeout) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time")
    received = receive(answers)
    if received is None:
        raise BrokenPipeError(errno.EPIPE, _GONE)
    raise_failure(received[0])
    return received
