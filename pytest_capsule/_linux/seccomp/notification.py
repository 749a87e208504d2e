"""System calls that a filter hands to another process to answer: seccomp_unotify(2).

Who makes such a call waits. The answer is a value or an error, and the call is not made; or that it be made after all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_CALL = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags; number, convention, instruction, arguments
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, value, error, flags
_RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


class Call(NamedTuple):
    """A call that waits for its answer; ``pid`` is its thread's, as whoever listens counts."""

    id: int
    pid: int
    name: str
    arguments: tuple[int, ...]


class Listener:
    """The other end of a filter. ``names`` are those of the calls by number, of the one convention that is handed on.

    Readable (``fileno``) when a call waits; hung up when nobody is left under the filter.
    """

    def __init__(self, fd: int, names: Mapping[int, str]) -> None:
        self._fd = fd
        self._names = names

    def fileno(self) -> int:
        """The listening descriptor."""
        return self._fd

    def receive(self) -> Call | None:
        """The next call; ``None`` when its caller was killed, or interrupted, before it could be received."""
        buffer = bytearray(_CALL.size)
        try:
            fcntl.ioctl(self._fd, _RECEIVE, buffer)
        except (FileNotFoundError, InterruptedError):
            return None
        identity, pid, _, number, _, _, *arguments = _CALL.unpack(buffer)
        return Call(identity, pid, self._names.get(number, str(number)), tuple(arguments))

    def answer(self, call: Call, value: int = 0, errno: int = 0) -> None:
        """Let the call return ``value``, or fail with ``errno``."""
        self._send(_ANSWER.pack(call.id, value, -errno, 0))

    def go_on(self, call: Call) -> None:
        """Let the kernel carry the call out."""
        self._send(_ANSWER.pack(call.id, 0, 0, _CONTINUE))

    def _send(self, answer: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):  # the caller is gone, or was interrupted and calls again
            fcntl.ioctl(self._fd, _SEND, answer)

    def close(self) -> None:
        """Stop listening: calls that are handed on fail with ENOSYS from now on."""
        os.close(self._fd)
