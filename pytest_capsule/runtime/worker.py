"""A child in the supervisor's user namespace that calls functions: for trees whose files are of all its ids."""

from __future__ import annotations

import importlib
import os
import queue
import socket
import threading
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_capsule.runtime.supervisor import Supervisor


def serve(sock: socket.socket) -> None:
    """Call what is asked for until the engine is gone."""
    while (received := channel.receive(sock)) is not None:
        message, descriptors = received
        with socket.socket(fileno=descriptors.pop(0)) as answers:
            try:
                function: Any = getattr(importlib.import_module(message["module"]), message["function"])
                channel.send(answers, {"value": function(*message["args"], *descriptors)})
            except Exception as error:
                channel.send(answers, channel.failure(error))
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)


class Worker:
    """The engine's side; the process is started with the first call."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def call(self, module: str, function: str, *args: Any, descriptors: Sequence[int] = ()) -> Any:
        """Call ``module.function(*args, *descriptors)`` there; arguments and value are plain."""
        message = {"module": module, "function": function, "args": args}
        sock = self._started()
        try:
            return channel.call(sock, message, descriptors)[0]["value"]
        except BrokenPipeError:  # it was killed, or died with its supervisor
            with self._lock:
                if self._socket is sock:
                    self._socket = None
                    sock.close()
            return channel.call(self._started(), message, descriptors)[0]["value"]

    def _started(self) -> socket.socket:
        with self._lock:
            if self._socket is None:
                self._socket, pidfd = self._supervisor.serve(__name__, "serve")
                os.close(pidfd)
            return self._socket

    def close(self) -> None:
        """Let the process end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Crew:
    """Several workers, each with one call at a time: as many calls go on beside each other."""

    def __init__(self, supervisor: Supervisor, size: int) -> None:
        self._workers = [Worker(supervisor) for _ in range(size)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last to end its call is the first to get one:
        for worker in self._workers:  # those that were never needed are never started
            self._idle.put(worker)

    def call(self, module: str, function: str, *args: Any, descriptors: Sequence[int] = ()) -> Any:
        """As ``Worker.call``; waits until one of them is free."""
        worker = self._idle.get()
        try:
            return worker.call(module, function, *args, descriptors=descriptors)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Let the processes end."""
        for worker in self._workers:
            worker.close()
