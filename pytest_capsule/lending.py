"""Containers that all workers of a pytest-xdist run use: the process that leads the workers has them, and lends them.

They live as long as that process, whatever becomes of a worker. A worker asks over a Unix socket, whose name the kernel
forgets together with the process.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from pathlib import Path

    from pytest_capsule.errors import CapsuleError
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.session import CapsuleSession
    from pytest_capsule.spec import ContainerSpec


class Lender:
    """Starts each container once, and answers the workers; all that costs is done when the first one asks."""

    def __init__(self, open_session: Callable[[], CapsuleSession]) -> None:
        self.address = f"\0pytest-capsule-{secrets.token_hex(16)}"
        self._open_session = open_session
        self._lock = threading.Lock()
        self._lent: dict[Hashable, Container | CapsuleError] = {}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(self.address)
        self._listening.listen()
        self._thread = threading.Thread(target=self._accept, name="capsule-lender", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                worker, _ = self._listening.accept()
                if channel.is_own(worker):
                    threading.Thread(target=self._serve, args=(worker,), name="capsule-lender", daemon=True).start()
                else:
                    worker.close()

    def _serve(self, worker: socket.socket) -> None:
        with worker:
            while (received := channel.receive(worker)) is not None:
                request, (answers,) = received
                arguments = request, socket.socket(fileno=answers)
                threading.Thread(target=self._answer, args=arguments, name="capsule-lender", daemon=True).start()

    def _answer(self, request: channel.Message, answers: socket.socket) -> None:
        """Answer one request: with one parcel, or, for lines that are still to come, with any number."""
        from pytest_capsule.loans import pack, pack_error, unpack

        with answers, contextlib.suppress(BrokenPipeError):
            try:
                with self._lock:
                    session = self._open_session()
                result, descriptors = self._carry_out(session, *unpack(request, session.engine))
                if hasattr(result, "__next__"):
                    channel.send(answers, {"several": True})
                    for one in result:
                        channel.send(answers, pack(one))
                else:
                    channel.send(answers, pack(result), descriptors)
            except Exception as error:  # whatever it is: who has asked meets it
                channel.send(answers, pack_error(error))

    def _carry_out(self, session: CapsuleSession, what: str, *args: Any) -> tuple[Any, Sequence[int]]:
        if what == "lend":
            return self._lend(session, *args)
        identity, keywords = args[0], args[1]
        value = getattr(self._find(identity), what)
        return (value(*args[2:], **keywords) if callable(value) else value), ()

    def _lend(
        self, session: CapsuleSession, key: Hashable, spec: ContainerSpec, folders: Sequence[Path]
    ) -> tuple[Any, Sequence[int]]:
        """What a worker needs to use the container, and whether it was started for this worker."""
        from pytest_capsule.errors import CapsuleError
        from pytest_capsule.runtime.borrowed import Lent, descriptors_of

        with self._lock:
            is_first = key not in self._lent
            if is_first:
                try:
                    self._lent[key] = session.engine.start(spec, folders=folders)
                except CapsuleError as error:
                    self._lent[key] = error
        found = self._lent[key]
        if isinstance(found, CapsuleError):
            raise found
        return (Lent.of(found), is_first), descriptors_of(found)

    def _find(self, identity: str) -> Container:
        from pytest_capsule.runtime.container import Container

        return next(one for one in self._lent.values() if isinstance(one, Container) and one.id == identity)

    def close(self) -> None:
        """Answer nobody any more; the session ends the containers."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
