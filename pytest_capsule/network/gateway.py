"""The way from a container to servers on the host's loopback, opened when a container first asks for the host's name.

A rule in the container's network namespace leads connections to ``HOST_ADDRESS``, at any port, to one listener there;
this process, which stands in the host's namespace, accepts them and connects to the same port of the host's loopback.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading

from pytest_capsule._linux import channel, constants, nftables, syscalls
from pytest_capsule.network.resolver import HOST_ADDRESS

_SO_ORIGINAL_DST = 80
_RESET = struct.pack("ii", 1, 0)  # linger: on, for no time
_CHUNK = 1 << 16
_BACKLOG = 128
CONNECTIONS = 256
"""What one container may have open; a further one waits in the listener's queue until another has ended."""


def serve(sock: socket.socket) -> None:
    """Serve one container until it is gone: its network namespace comes with the first message, and who asked."""
    received = channel.receive(sock)
    if received is None:
        return
    answers, namespace = socket.socket(fileno=received[1][0]), received[1][1]
    try:
        listener = _listen_in(namespace)
    except OSError as error:
        channel.send(answers, channel.failure(error))
        return
    finally:
        os.close(namespace)
    channel.send(answers, {})
    _accept(listener, answers.fileno())


def _accept(listener: socket.socket, gone: int) -> None:
    """Carry connections until ``gone`` is readable."""
    carried, ended = 0, os.eventfd(0)
    poll = select.poll()
    for descriptor in (gone, ended):
        poll.register(descriptor, select.POLLIN)
    while True:
        poll.register(listener, select.POLLIN if carried < CONNECTIONS else 0)
        ready = [descriptor for descriptor, _ in poll.poll()]
        if gone in ready:
            return
        if ended in ready:
            carried -= os.eventfd_read(ended)
        if listener.fileno() in ready:
            with contextlib.suppress(OSError):
                threading.Thread(target=_carry, args=(listener.accept()[0], ended), daemon=True).start()
                carried += 1


def _listen_in(namespace: int) -> socket.socket:
    """A listener in another network namespace, to which all that is for the host is led.

    A child goes there, since without root nobody comes back from there to the host's.
    """
    ours, theirs = channel.pair()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.setns(namespace, constants.CLONE_NEWNET)
            listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
            nftables.redirect(HOST_ADDRESS, listener.getsockname()[1])
            channel.send(theirs, {}, [listener.fileno()])
        except OSError as error:
            channel.send(theirs, channel.failure(error))
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        try:
            return socket.socket(fileno=channel.answer(ours)[1][0])
        finally:
            os.waitpid(pid, 0)


def _carry(inner: socket.socket, ended: int) -> None:
    """One connection, and word of its end."""
    try:
        _join(inner)
    finally:
        os.eventfd_write(ended, 1)


def _join(inner: socket.socket) -> None:
    """A connection goes to the same port of the host's loopback; a refusal there is a reset here."""
    with inner:
        wanted = inner.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)  # struct sockaddr_in
        try:
            outer = socket.create_connection(("localhost", int.from_bytes(wanted[2:4], "big")))
        except OSError:
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return
        with outer:
            back = threading.Thread(target=_pump, args=(outer, inner), daemon=True)
            back.start()
            _pump(inner, outer)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one to the other, and then the end."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
