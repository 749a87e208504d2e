"""A container as a test holds it."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from pytest_capsule.errors import UsageError
from pytest_capsule.network.ports import PortMapping, in_url, parse_inner_port, reached_at
from pytest_capsule.runtime.changes import Change, classify
from pytest_capsule.runtime.file_access import FileAccess
from pytest_capsule.runtime.main_process import MainProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from pytest_capsule.oci.config import Healthcheck
    from pytest_capsule.runtime.cgroups import Cgroups
    from pytest_capsule.runtime.limits import Limit, Limits
    from pytest_capsule.runtime.logs import LogPump
    from pytest_capsule.runtime.spec import RuntimeSpec
    from pytest_capsule.runtime.supervisor import Supervisor

    Classify = Callable[[list[dict[str, str]], Mapping[str, Sequence[str]]], list[Change]]


class Container(MainProcess, FileAccess):
    """A running container; everything of it is gone when ``close`` returns, or its ``with`` block ends.

    Made by ``Engine.run``. The main process is only one of those inside: when it has exited, ``exec`` and the files go
    on until ``close``. All methods may be called from any thread.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        spec: RuntimeSpec,
        *,
        id: str,
        name: str,
        pump: LogPump,
        image: Any = None,
        command: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        stop_signal: str = "",
        commit: Callable[..., Any] | None = None,
        publish: Callable[[Container, PortMapping], tuple[str, int]] | None = None,
        classify: Classify = classify,
        limits: Limits | None = None,
        cgroups: Cgroups | None = None,
        neighbour: Container | None = None,
    ) -> None:
        self.image = image
        self.command = tuple(command)
        self.labels = dict(labels or {})
        self.ip: str = "127.0.0.1" if neighbour is None else neighbour.ip
        self.ip6: str = "::1" if neighbour is None else neighbour.ip6
        self.outbound = ""  # the interface by which there is to be a way out
        self.published: dict[tuple[int, str], tuple[str, int]] = {}
        self._commit = commit
        self._publish = publish
        self._publishing = threading.Lock()
        self._classify = classify
        super().__init__(
            pump=pump,
            healthcheck=_healthcheck(image),
            stop_signal=stop_signal,
            supervisor=supervisor,
            spec=spec,
            id=id,
            name=name,
            limits=limits,
            cgroups=cgroups,
            neighbour=neighbour,
        )

    def diff(self) -> list[Change]:
        """What has been added (A), changed (C) and deleted (D) in the writable layer, sorted by path."""
        entries = self._call({"op": "changes"})[0]["changes"]
        ours = {overlay.target for overlay in self.spec.overlays} - {"/"}
        found: list[Change] = self._classify(entries, {o.target: o.lowers for o in self.spec.overlays})
        return [change for change in found if change.path not in ours]

    def commit(
        self,
        tag: str | None = None,
        *,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        change: Sequence[str] = (),
        end: bool = False,
    ) -> Any:
        """The writable layer as a new ``Image`` on this one's, with another ``command`` or more ``env``.

        ``change`` are instructions such as ``WORKDIR /srv`` or ``CMD ["run"]``: Docker's ``--change``. The container
        goes on, with files of its own, unless it is to ``end`` with it.
        """
        if self._commit is None:
            raise UsageError(f"container {self.name} cannot be committed: no engine made it")
        return self._commit(self, tag, command=command, env=env, change=change, end=end)

    def connect(self, port: int | str, timeout: float | None = 10) -> socket.socket:
        """A connected TCP socket to a port inside, published or not, made within the container's own network.

        ``timeout``, in seconds, is for the connection, and then the socket's own. ``ConnectionRefusedError`` where
        nobody listens, ``TimeoutError`` where nobody accepts.
        """
        port, protocol = parse_inner_port(port)
        if protocol != "tcp":
            raise UsageError(f"connect({port}): it is for TCP", hint=f'address("{port}/{protocol}") is for datagrams')
        _, (fd,) = self._call({"op": "connect", "port": port})
        sock = socket.socket(fileno=fd)
        try:
            arrived = select.poll()
            arrived.register(sock, select.POLLOUT)
            if not arrived.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"port {port} of container {self.name} accepts nobody")
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, f"{os.strerror(error)}: port {port} of container {self.name}")
            sock.settimeout(timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    def address(self, port: int | str) -> tuple[str, int]:
        """``(host, port)`` at which the test's own process reaches a port inside, published now if it was not.

        ``"53/udp"`` is one for datagrams.
        """
        number, protocol = parse_inner_port(port)
        if self.spec.host_network:
            return "127.0.0.1", number
        with self._publishing:
            if (number, protocol) not in self.published:
                if self._publish is None:
                    raise UsageError(f"container {self.name} cannot publish ports")
                self._check_open()
                self.published[number, protocol] = self._publish(self, PortMapping(number, protocol=protocol))
            host, outside = self.published[number, protocol]
        return reached_at(host), outside

    @property
    def exposed(self) -> tuple[str, ...]:
        """The ports that the image names with EXPOSE, such as ``80/tcp``: where its services are, published or not."""
        return () if self.image is None else tuple(self.image.config.config.exposed_ports)

    def url(self, port: int | str, path: str = "/") -> str:
        """The address of a port inside as an ``http`` URL."""
        host, outside = self.address(port)
        return f"http://{in_url(host)}:{outside}/{path.lstrip('/')}"

    @property
    def pid(self) -> int:
        """The id, as the host counts, of the main process while it runs, else of the container's init.

        ``ContainerError`` when both have gone.
        """
        init = self.init_pid
        if self._main is not None and self._main.poll() is None:
            return self._table().find(self._main.pid) or init
        return init

    def top(self) -> list[dict[str, Any]]:
        """The processes inside, init first: ``pid`` (the host's), ``name``, ``command``, ``status``, ``user``."""
        return self._table().rows()

    def stats(self) -> dict[str, float]:
        """``memory`` in bytes, ``cpu`` in seconds, ``pids``, and ``memory_limit`` where there is one.

        What a control group accounts for is read there (its memory is also that of files in memory, its ``pids`` counts
        threads); the rest is what the processes hold alone and have used since their start. As in Docker, our own
        init is none of ``pids``.
        """
        accounted = {} if self._restraint is None else self._restraint.usage()
        if {"memory", "cpu", "pids"} <= accounted.keys():
            return accounted
        return {**self._table().usage(), **accounted}

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits in force by keyword, each with how: ``enforced`` by the kernel, or ``advisory``; and why."""
        return {} if self._restraint is None else self._restraint.limits

    @property
    def oom_killed(self) -> bool:
        """Whether a process inside was killed because ``memory`` was used up."""
        return self._restraint is not None and self._restraint.killed_for == "memory"

    @property
    def killed_for(self) -> str | None:
        """The limit that has cost a process its life, such as ``out of memory (limit 64 MiB)``; else ``None``."""
        return None if self._restraint is None else self._restraint.describe()

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Container {self.name} {self.status}>"


def _healthcheck(image: Any) -> Healthcheck | None:
    check: Healthcheck | None = None if image is None else image.config.config.healthcheck
    return check if check is not None and check.test and check.test[0] != "NONE" else None
