"""A container that another process has started, as a process holds it that may use it too.

Commands, files and connections go straight to the container's init, as from its owner. What only the owner knows, the
main process with its logs, the health, the ports, is asked of the owner.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_capsule.aio import in_thread
from pytest_capsule.errors import UsageError
from pytest_capsule.runtime.container import Container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from typing_extensions import Self

    from pytest_capsule.runtime.limits import Limits
    from pytest_capsule.runtime.logs import LogPump
    from pytest_capsule.runtime.process import Process
    from pytest_capsule.runtime.spec import RuntimeSpec
    from pytest_capsule.runtime.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Lent:
    """What a borrower has to know of a container: the values that never change."""

    id: str
    name: str
    spec: RuntimeSpec
    image: Any
    command: tuple[str, ...]
    labels: Mapping[str, str]
    ip: str
    ip6: str

    @classmethod
    def of(cls, container: Container) -> Lent:
        """That of a container of this process."""
        return cls(
            id=container.id,
            name=container.name,
            spec=container.spec,
            image=container.image,
            command=container.command,
            labels=container.labels,
            ip=container.ip,
            ip6=container.ip6,
        )


def descriptors_of(container: Container) -> tuple[int, int]:
    """What lets another process use it: the channel to its init, and init itself."""
    return container.requests.fileno(), container._pidfd


def _asked(name: str) -> Any:
    """A method that its owner carries out."""

    def method(self: BorrowedContainer, *args: Any, **keywords: Any) -> Any:
        return self._ask(name, *args, **keywords)

    method.__name__, method.__doc__ = name, getattr(Container, name).__doc__
    return method


def _known(name: str) -> Any:
    """A property whose value its owner knows."""
    return property(lambda self: self._ask(name), doc=getattr(Container, name).__doc__)


class BorrowedContainer(Container):
    """A container of another process; ``close`` gives it back, and it goes on."""

    def __init__(
        self,
        supervisor: Supervisor,
        pump: LogPump,
        lent: Lent,
        descriptors: Sequence[int],
        ask: Callable[..., Any],
    ) -> None:
        """``descriptors`` are its init's channel and process; ``ask(id, name, *args)`` calls a method at its owner."""
        self._descriptors = descriptors
        self._owner = ask
        super().__init__(
            supervisor,
            lent.spec,
            id=lent.id,
            name=lent.name,
            pump=pump,
            image=lent.image,
            command=lent.command,
            labels=lent.labels,
        )
        self.ip, self.ip6 = lent.ip, lent.ip6

    def _forked(self, neighbour: Self | None) -> tuple[socket.socket, int]:
        requests, init = self._descriptors
        return socket.socket(fileno=requests), init

    def _furnish(self, limits: Limits | None) -> None:
        """It is there already."""

    def _ask(self, name: str, *args: Any, **keywords: Any) -> Any:
        self._check_open()
        return self._owner(self.id, name, *args, **keywords)

    logs = _asked("logs")
    moment = _asked("moment")
    wait_change = _asked("wait_change")
    wait = _asked("wait")
    kill = _asked("kill")
    stop = _asked("stop")
    restart = _asked("restart")
    unpause = _asked("unpause")
    pause = _asked("pause")
    diff = _asked("diff")
    commit = _asked("commit")
    address = _asked("address")
    health = _asked("health")
    stats = _asked("stats")
    exit_code = _known("exit_code")
    health_log = _known("health_log")
    pid = _known("pid")
    limits = _known("limits")
    oom_killed = _known("oom_killed")
    killed_by = _known("killed_by")
    killed_for = _known("killed_for")

    @property
    def main(self) -> Process | None:
        """Refused: the main process is a child of its owner, who carries out what is asked of the container."""
        raise UsageError(
            f"the main process of container {self.name}, which all workers share, is not this worker's",
            hint="use wait, kill, stop, restart, logs, exit_code, killed_by and pid of the container",
        )

    @property
    def status(self) -> str:
        """As its owner says; ``removed`` once it was given back."""
        return "removed" if self._ended else str(self._ask("status"))

    def network_namespace(self) -> int:
        """Refused: without root, only what its owner has started may join its network."""
        raise UsageError(
            f"the network of container {self.name}, which all workers share, can be joined by none of theirs"
        )

    async def alogs(self, stream: str = "both") -> AsyncIterator[str]:
        """``logs(follow=True)`` for ``async for``: each line as it comes, until the process has ended."""
        lines = self.logs(stream, follow=True)
        with contextlib.closing(lines):
            while (line := await in_thread(lambda: next(lines, None), lines.close)) is not None:
                yield line

    def end(self) -> None:
        """Use it no longer."""
        self._ended = True

    def close(self) -> None:
        """Give it back: its owner ends it."""
        with self._closing:
            if self._closed or self._process != os.getpid():
                return
            self._closed = self._ended = True
        with self._cleanup:
            self._release()
