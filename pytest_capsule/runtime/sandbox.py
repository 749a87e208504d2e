"""A container's namespaces and the init in them: forked, furnished, asked, and ended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING

from pytest_capsule._linux import channel
from pytest_capsule.errors import ASK_THE_CHECK, ContainerError
from pytest_capsule.runtime.process import PATIENCE, mute
from pytest_capsule.runtime.restraint import Restraint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from pytest_capsule.runtime.cgroups import Cgroups
    from pytest_capsule.runtime.limits import Limits
    from pytest_capsule.runtime.process_table import ProcessTable
    from pytest_capsule.runtime.spec import Overlay, RuntimeSpec
    from pytest_capsule.runtime.supervisor import Supervisor

_UNHURRIED = frozenset(("place", "export", "changes"))  # requests that take as long as there are files


class Sandbox:
    """What a container stands in, before anything runs there: all that is done inside is asked of its init."""

    def __init__(
        self,
        supervisor: Supervisor,
        spec: RuntimeSpec,
        *,
        id: str,
        name: str,
        limits: Limits | None = None,
        cgroups: Cgroups | None = None,
        neighbour: Self | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self.spec = spec
        self.sharing: list[Self] = []  # those that are in this one's network namespace
        self._cleanup = contextlib.ExitStack()
        self._ended = False
        self._closed = False
        self._closing = threading.Lock()
        self._furnishing: socket.socket | None = None
        self._process = os.getpid()
        self._supervisor = supervisor
        self._restraint: Restraint | None = None
        self._cgroups = cgroups
        self._requests, self._pidfd = self._forked(neighbour)
        try:
            self._furnish(limits)
        except OSError as error:
            raise self._not_set_up(error) from None
        except BaseException:
            self.close()
            raise

    def _furnish(self, limits: Limits | None) -> None:
        """Have init put the container together, and wait for nothing."""
        message = self.spec.message()
        if limits is not None and self._cgroups is not None and limits.asked():
            self._restraint = self._restraint_to(limits, self._cgroups)
            self._cleanup.callback(self._restraint.close)  # before there is a group: a Ctrl-C may come at any line
            self._restraint.enforce(self.init_pid)  # while nothing but init runs
            message |= self._restraint.message()
        descriptors: list[int] = []
        with contextlib.ExitStack() as hubs:
            hubs.callback(channel.close, descriptors)  # before there is one, likewise
            for network in self.spec.networks:
                descriptors.append(self._supervisor.hub_namespace(network.hub))
            self._furnishing = channel.ask(self._requests, message, descriptors)

    def _forked(self, neighbour: Self | None) -> tuple[socket.socket, int]:
        """A blank container, in the network namespace of ``neighbour`` if there is one."""
        variant, modules = self.spec.variant(), self.spec.modules
        if neighbour is None:
            return self._supervisor.container(variant, modules=modules)
        network = neighbour.network_namespace()
        try:
            made = self._supervisor.container(variant, modules=modules, network=network)
        finally:
            os.close(network)
        neighbour.sharing.append(self)
        self.on_close(lambda: neighbour.sharing.remove(self))
        return made

    def ready(self) -> None:
        """Wait until init has put the container together; ``ContainerError`` when it could not."""
        furnishing, self._furnishing = self._furnishing, None
        if furnishing is not None:
            with furnishing:
                try:
                    channel.answer(furnishing)
                except OSError as error:
                    raise self._not_set_up(error) from None

    def _not_set_up(self, error: OSError) -> ContainerError:
        self.close()
        where = f" ({error.filename})" if error.filename else ""
        hint = ASK_THE_CHECK if error.errno in (errno.EPERM, errno.EACCES) else None
        if error.errno == errno.EINVAL and (covering := _mounts_beneath(self.spec.overlays)):
            hint = (
                "without root, no overlay can show a folder of this machine beneath which something is mounted, such as"
                f" {covering[0]}: mount that elsewhere, or begin with another image than capsule/host"
            )
        return ContainerError(
            f"container {self.name} cannot be set up: {error.strerror}{where}",
            container=self.name,
            hint=hint,
        )

    def _restraint_to(self, limits: Limits, cgroups: Cgroups) -> Restraint:
        return Restraint(
            limits,
            cgroups,
            label=self.id[:12],
            look=lambda: self._table().held(),
            kill=lambda: self._signal_all(signal.SIGKILL),
        )

    def is_gone(self) -> bool:
        """Whether init has ended, and with it everything inside."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(0))

    @property
    def init_pid(self) -> int:
        """The id, as the host counts, of the container's PID 1; ``ContainerError`` when that has gone."""
        self._check_open()
        with open(f"/proc/self/fdinfo/{self._pidfd}") as info:
            pid = next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
        if pid <= 0:  # reaped; and to kill(2) a number like that is no process, but everybody
            raise ContainerError(f"container {self.name} is gone", container=self.name)
        return pid

    def _table(self) -> ProcessTable:
        from pytest_capsule.runtime.process_table import ProcessTable  # here: psutil is dear, and most are never asked

        try:
            return ProcessTable(self.init_pid)
        except ContainerError:  # closed, or gone: nothing runs in it
            return ProcessTable(-1)

    def network_namespace(self) -> int:
        """A descriptor of its network namespace, to be closed."""
        return self._call({"op": "network"})[1][0]

    @property
    def requests(self) -> socket.socket:
        """The channel to the container's init: for a forwarder, which asks it for connections."""
        return self._requests

    def _signal_all(self, number: signal.Signals | None) -> bool:
        """Send a signal, or none, to every process but init; whether there is any."""
        self._check_open()
        with contextlib.suppress(BrokenPipeError):
            return bool(self._request({"op": "signal_all", "signal": int(number or 0)})[0]["anybody"])
        return False

    def _call(self, message: channel.Message, descriptors: Sequence[int] = ()) -> tuple[channel.Message, list[int]]:
        self._check_open()
        try:
            return self._request(message, descriptors)
        except BrokenPipeError:
            raise ContainerError(f"container {self.name} is gone", container=self.name) from None
        except OSError as error:
            path = message.get("path")
            if path is None or not str(error.filename).startswith("openat2 "):
                raise
            raise OSError(error.errno, error.strerror, path) from None

    def _request(self, message: channel.Message, descriptors: Sequence[int] = ()) -> tuple[channel.Message, list[int]]:
        patience = None if message["op"] in _UNHURRIED else PATIENCE
        try:
            return channel.call(self._requests, message, descriptors, timeout=patience)
        except TimeoutError:
            raise mute(self.name, f"{message['op']} {message.get('path', '')}".rstrip()) from None

    def _check_open(self, but: str = "") -> None:
        if self._ended:
            raise ContainerError(f"container {self.name} is closed{but}", container=self.name)

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` when everything inside is gone."""
        self._cleanup.callback(callback)

    def end(self) -> None:
        """Kill everything inside, and wait for nothing: ``close``, which must still be called, then has less to do."""
        with self._closing:
            if not self._ended and self._process == os.getpid():
                self._ended = True
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End the container: when this returns, its processes, mounts and writable layer are gone.

        In a child that the test's process has forked it does nothing: the container is its parent's.
        """
        self.end()
        with self._closing:
            if self._closed or self._process != os.getpid():
                return
            self._closed = True
        with self._cleanup:
            gone = select.poll()
            gone.register(self._pidfd, select.POLLIN)
            gone.poll(10_000)
            self._supervisor.order()  # not before: a fork and the end of namespaces are in each other's way
            if self._restraint is not None:
                self._restraint.stop()  # before the descriptors that it uses are anybody else's
            self._release()

    def _release(self) -> None:
        """Close what this process holds of it."""
        if self._furnishing is not None:
            self._furnishing.close()
        self._requests.close()
        os.close(self._pidfd)


def _mounts_beneath(overlays: Sequence[Overlay]) -> list[str]:
    """What is mounted in the folders that overlays are made of: clone_private_mount() in the kernel refuses those."""
    folders = tuple(os.path.join(lower, "") for overlay in overlays for lower in overlay.lowers)
    with open("/proc/self/mountinfo") as table:
        return [point for line in table if (point := line.split()[4]).startswith(folders)]
