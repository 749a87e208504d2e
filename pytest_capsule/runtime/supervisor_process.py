"""The supervisor: a small process, one for an engine, from which every container is forked.

Run as ``python -I -S`` by ``runtime.supervisor``. A fork of a pytest with half a gigabyte costs 25 ms and is not safe
beside its threads; a fork of this one costs one. It is single-threaded, imports before the first fork all that its
children will ever need and as little else as can be (dataclasses alone would bring a megabyte), and ends with the
engine: by the end of its channel, or by the engine's pidfd where a child of the engine still holds a copy of that
channel. With it dies every init (``PR_SET_PDEATHSIG``), and with those every process, mount and network namespace of
theirs: the kernel sees to it, whoever is killed how.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel, constants, mount, syscalls
from pytest_capsule._linux.seccomp import filters
from pytest_capsule.network import bridge
from pytest_capsule.runtime import init, rootfs
from pytest_capsule.runtime.variants import AT_THE_HOST, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_NAMESPACES = (
    constants.CLONE_NEWNS
    | constants.CLONE_NEWUTS
    | constants.CLONE_NEWIPC
    | constants.CLONE_NEWPID
    | constants.CLONE_NEWCGROUP
)
_IDLE = 25  # milliseconds without a request after which blank containers are made: not beside a test's first command
_GATEWAYS = 1024  # that one who was taken over can make us start
_OF_A_NETWORK = 16  # several containers may share one
Blank = tuple[int, socket.socket]


class Stock:
    """Blank containers of one variant, of which ``most`` are kept ready once the first was asked for."""

    def __init__(self, variant: dict[str, Any], filters: list[bytes], most: int) -> None:
        self.variant = variant
        self.filters = filters
        self.most = most
        self.wanted = 0
        self.ready: list[Blank] = []


def main(control: int, engine: int, program: int) -> None:
    """Serve the engine at the other end of descriptor ``control`` until the process behind pidfd ``engine`` ends.

    ``program`` is what this process was executed from, and is not needed any more.
    """
    os.close(program)
    sock = socket.socket(fileno=control)
    received = channel.receive(sock)
    if received is None:
        return
    settings, _ = received
    syscalls.set_process_name(b"capsule")
    try:
        identity = _become_root(sock, settings["ids"])
        syscalls.unshare(constants.CLONE_NEWNS)
        # Mounts of the host still arrive here, ours never get out; and what init clones needs no change of its own.
        syscalls.mount(None, b"/", None, constants.MS_REC | constants.MS_SLAVE)
    except OSError as error:
        channel.send(sock, channel.failure(error))
        return
    syscalls.prctl(constants.PR_SET_DUMPABLE, 0)
    with contextlib.suppress(OSError):  # not everywhere a user may have one more
        syscalls.join_new_keyring()  # the keys of whoever runs the tests are none of a container's
    _forget_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: no zombie is ever seen
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # where there is no overlay, who needs one is told
        mount.takes_layers_singly()  # found out once, for all children
    gc.collect()
    gc.freeze()  # what is here stays: no collection may touch, and so copy, the pages that children share
    gc.disable()
    channel.send(sock, {"ready": True})
    Supervisor(sock, engine, identity, os.fsencode(settings["mountpoint"]), settings["blanks"]).serve()


def _forget_signals() -> None:
    """What the engine ignores (under nohup) or blocks (in the thread that asked first) is nothing to a container."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python itself ignores those two, and restores them in a command
    for unnamed in constants.SIGNALS_OF_THE_C_LIBRARY:
        syscalls.forget_signal_handler(unnamed)


def _become_root(sock: socket.socket, ids: str) -> rootfs.Identity:
    """Enter a user namespace unless this is the host's root; ``ids`` is ``root``, ``range`` or ``single``."""
    if ids == "root":
        return rootfs.Identity(userns=False, many_ids=True)
    uid, gid = os.getuid(), os.getgid()
    syscalls.unshare(constants.CLONE_NEWUSER)
    if ids == "range":  # only newuidmap, which the engine runs, may map more than one's own id
        channel.send(sock, {"unshared": True})
        if channel.receive(sock) is None:
            raise ConnectionResetError(104, "the engine is gone")
    else:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return rootfs.Identity(userns=True, many_ids=ids == "range")


def _gate() -> tuple[socket.socket, int]:
    """Where inits call the supervisor, and what each gets of it: above the descriptors that a child has its own at."""
    calls, callers = channel.pair()
    with callers:
        return calls, fcntl.fcntl(callers, fcntl.F_DUPFD_CLOEXEC, init.GATE + 1)


def _has_ended(pidfd: int) -> bool:
    """Whether a process has, whose descriptor is closed then."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = bool(poll.poll(0))
    if ended:
        os.close(pidfd)
    return ended


class Supervisor:
    """Answers the engine: forks containers (blank ones ahead of need), network hubs, forwarders and workers."""

    def __init__(
        self, control: socket.socket, engine: int, identity: rootfs.Identity, mountpoint: bytes, blanks: int
    ) -> None:
        self._control = control
        self._engine = engine
        self._identity = identity
        self._mountpoint = mountpoint
        self._patience = _IDLE
        self._default_filters: dict[frozenset[str], bytes] = {}
        self._plain = Stock(PLAIN, self._filters(PLAIN), blanks)
        self._at_the_host = Stock(AT_THE_HOST, self._filters(AT_THE_HOST), 1)
        self._stocks = (self._at_the_host, self._plain)
        self._hubs: dict[int, int] = {}
        self._gateways: list[tuple[int, int]] = []  # the network and the process of each
        self._calls, self._callers = _gate()
        self._alive = os.pidfd_open(os.getpid())
        with open("/proc/sys/kernel/cap_last_cap") as file:
            self._last_capability = int(file.read())
        self._operations: dict[str, Callable[[channel.Message], list[int]]] = {
            "container": self._container,
            "order": self._order,
            "hub": self._hub,
            "hub_namespace": lambda message: [os.dup(self._hubs[message["hub"]])],
            "drop_hub": self._drop_hub,
            "serve": self._serve_function,
        }

    def serve(self) -> None:
        """One request after the other; in the pauses, keep blank containers ready."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._engine, select.POLLIN)
        poll.register(self._calls, select.POLLIN)
        while True:
            lacking = None
            for stock in self._stocks:
                if len(stock.ready) < stock.wanted:
                    lacking = stock
                    break
            ready = poll.poll(self._patience if lacking else None)
            if lacking and not ready:
                self._patience = _IDLE
                with contextlib.suppress(OSError):  # whoever asks next is told
                    lacking.ready.append(self._fork_init(lacking.variant, lacking.filters))
                continue
            descriptors = [fd for fd, _ in ready]
            if self._engine in descriptors:
                break
            if self._calls.fileno() in descriptors and not self._open_gateway():
                poll.unregister(self._calls)
                self._change_gate()
                poll.register(self._calls, select.POLLIN)
            if self._control.fileno() not in descriptors:
                continue
            try:
                received = channel.receive(self._control)
            except OSError:  # no room for its descriptors: who asked sees its end of the answers closed
                continue
            if received is None:
                break
            self._answer(*received)
        self._end_blanks()  # the death of this process would end them too, but only after it was seen

    def _end_blanks(self) -> None:
        for stock in self._stocks:
            for pidfd, channel_of_init in stock.ready:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 5)
                os.close(pidfd)
                channel_of_init.close()
            stock.ready = []

    def _change_gate(self) -> None:
        """Have the inits from now on share another one, since one that was taken over has shut the last."""
        self._end_blanks()
        self._calls.close()
        os.close(self._callers)
        self._calls, self._callers = _gate()

    def _open_gateway(self) -> bool:
        """A container's init asks for a way to the host: its answers go there, and its network is given to it.

        ``False`` when nobody can ask any more on that socket, which all inits share.
        """
        with contextlib.suppress(OSError):  # the init has gone meanwhile, or there is no room: it waits no longer
            received = channel.receive(self._calls)
            if received is None:
                return False
            descriptors = received[1]
            try:
                if len(descriptors) == 2:
                    self._lead_to_host(*descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def _lead_to_host(self, answers: int, network: int) -> None:
        """Each ask has a process of its own, and those of one network, or of all, are so many at most."""
        self._gateways = [(key, pidfd) for key, pidfd in self._gateways if not _has_ended(pidfd)]
        wanted = os.fstat(network).st_ino
        if len(self._gateways) >= _GATEWAYS or [key for key, _ in self._gateways].count(wanted) >= _OF_A_NETWORK:
            return
        child, pidfd = self._serve_function({"module": "pytest_capsule.network.gateway", "function": "serve"})
        self._gateways.append((wanted, pidfd))
        with socket.socket(fileno=child) as sock:
            channel.send(sock, {}, [answers, network])

    def _answer(self, message: channel.Message, descriptors: list[int]) -> None:
        reply: list[int] = []
        body: channel.Message = {}
        with socket.socket(fileno=descriptors.pop(0)) as answers:
            try:
                try:
                    reply = self._operations[message["op"]](message | {"descriptors": descriptors})
                except Exception as error:
                    body = channel.failure(error)
                channel.send(answers, body, reply)
            except BrokenPipeError:
                pass  # whoever asked has gone
            finally:
                for fd in (*reply, *descriptors):
                    os.close(fd)

    def _container(self, message: channel.Message) -> list[int]:
        for module in message["modules"]:  # a child cannot import any more once it has pivoted
            importlib.import_module(module)
        networks: list[int] = message["descriptors"]
        variant = message["variant"]
        if variant == AT_THE_HOST:
            self._patience = 0  # the next RUN is not far, and this one's command rarely needs all processors
        if not message["modules"] and not networks:
            for stock in self._stocks:
                if stock.variant == variant:
                    return self._take(stock)
        pidfd, ours = self._fork_init(variant, self._filters(variant), *networks)
        return [ours.detach(), pidfd]

    def _order(self, _: dict[str, Any]) -> list[int]:
        """A blank container for the next test, while the one before is going: now is the time to make more."""
        self._patience = 0
        return self._take(self._plain)

    def _take(self, stock: Stock) -> list[int]:
        stock.wanted = stock.most
        pidfd, ours = stock.ready.pop(0) if stock.ready else self._fork_init(stock.variant, stock.filters)
        return [ours.detach(), pidfd]

    def _fork_init(self, variant: dict[str, Any], filters: list[bytes], network: int = -1) -> Blank:
        """An init; in a network namespace of its own, or the host's, or the one behind the descriptor ``network``."""
        flags = _NAMESPACES | (0 if variant["host_network"] or network >= 0 else constants.CLONE_NEWNET)
        return self._fork(
            flags,
            lambda: init.run(self._identity, self._mountpoint, self._last_capability, variant, filters),
            network=network,
        )

    def _filters(self, variant: dict[str, Any]) -> list[bytes]:
        """The seccomp programs of a container, in the order of their installation; compiled once for a profile."""
        if variant["privileged"]:
            return []
        granted = frozenset(variant["capabilities"])
        if granted not in self._default_filters:
            self._default_filters[granted] = filters.default_filter(granted, os.uname().machine)
        return [self._default_filters[granted]]

    def _fork(self, flags: int, child: Callable[[], NoReturn], *, network: int = -1) -> Blank:
        """Clone a child that keeps its channel, on descriptor 3, the way to call us, on 4, and the three below."""
        ours, theirs = channel.pair()
        pid, pidfd = syscalls.clone(flags)
        if pid == 0:
            try:
                syscalls.prctl(constants.PR_SET_PDEATHSIG, signal.SIGKILL)
                if select.select([self._alive], [], [], 0)[0]:  # it died before the line above: nobody would tell
                    os._exit(1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                if network >= 0:
                    syscalls.setns(network, constants.CLONE_NEWNET)
                os.dup2(theirs.fileno(), init.CHANNEL, inheritable=False)
                os.dup2(self._callers, init.GATE, inheritable=False)
                syscalls.close_range(init.GATE + 1)
                child()
            finally:
                os._exit(1)
        theirs.close()
        return pidfd, ours

    def _hub(self, message: channel.Message) -> list[int]:
        """A network namespace with a bridge, which lives as long as this process keeps its descriptor.

        The engine gets it only to hand it to an init: what the engine holds, a child that it forks would hold as well.
        """

        def child() -> NoReturn:
            sock = socket.socket(fileno=init.CHANNEL)
            try:
                bridge.create_hub([tuple(address) for address in message["addresses"]], message["mac"])
                namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                channel.send(sock, {}, [namespace])
            except OSError as error:
                channel.send(sock, channel.failure(error))
            os._exit(0)

        pidfd, ours = self._fork(constants.CLONE_NEWNET, child)
        os.close(pidfd)
        with ours:
            (self._hubs[message["hub"]],) = channel.answer(ours)[1]
        return []

    def _drop_hub(self, message: channel.Message) -> list[int]:
        os.close(self._hubs.pop(message["hub"]))
        return []

    def _serve_function(self, message: channel.Message) -> list[int]:
        """A child in the host's namespaces that runs ``module.function(socket)``: a forwarder, or a worker."""

        def child() -> NoReturn:
            gc.enable()
            function: Any = getattr(importlib.import_module(message["module"]), message["function"])
            function(socket.socket(fileno=init.CHANNEL))
            os._exit(0)

        pidfd, ours = self._fork(0, child)
        return [ours.detach(), pidfd]
