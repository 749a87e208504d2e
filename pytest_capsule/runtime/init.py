"""PID 1 of a container: blank at first, then furnished with an image's layers, then at the test's service.

Forked by the supervisor and never executed anew. After ``rootfs.assemble`` it stands inside the container for good, so
nothing may be imported from there on; all it uses was imported before the fork.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import capabilities, channel, constants, netlink, syscalls
from pytest_capsule.network import bridge, resolver
from pytest_capsule.runtime import commands, files, mounting, placement, rootfs
from pytest_capsule.runtime.feigned_root import FeignedRoot

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import NoReturn

CHANNEL = 3
GATE = 4
"""Descriptors that the supervisor leaves open: the engine's channel, and one on which to ask for a way to the host."""
_PATIENCE = 10  # seconds for that way to be there
# A program that is none: it is refused when all has been done to start it.
_REHEARSAL = {"op": "exec", "argv": ["/"], "env": {"PATH": "/"}, "cwd": "/", "user": "", "tty": False}
Reply = tuple[channel.Message, list[int]]


def run(
    identity: rootfs.Identity, mountpoint: bytes, last_capability: int, variant: dict[str, Any], filters: list[bytes]
) -> NoReturn:
    """Live as PID 1 of the namespaces that the supervisor has just cloned; descriptor 3 is the engine's channel.

    ``filters`` are the seccomp programs that it and all its commands will live under.
    """
    try:
        syscalls.prctl(constants.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(constants.PR_SET_DUMPABLE, 1)  # nothing is inside yet, and else only the host's root may open it
        victims = commands.Victims()
        syscalls.prctl(constants.PR_SET_DUMPABLE, 0)  # nothing inside may trace init or read its descriptors
        syscalls.set_process_name(b"init")
        Init(socket.socket(fileno=CHANNEL), identity, filters, victims).live(mountpoint, last_capability, variant)
    except BaseException as error:
        os.write(2, f"init: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    os._exit(1)


class Init:
    """The loop: one request after the other, and every child that dies is reaped."""

    def __init__(
        self,
        requests: socket.socket,
        identity: rootfs.Identity,
        filters: list[bytes],
        victims: commands.Victims,
    ) -> None:
        self._requests = requests
        self._identity = identity
        self._filters = filters
        self._victims = victims
        self._memory_limited = False
        self._feigned: FeignedRoot | None = None
        self._poll = select.poll()
        self._accounts = commands.Accounts()
        self._own_network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._names: socket.socket | None = None
        self._gateway: socket.socket | None = None
        self._isolated = False
        self._texts: rootfs.Texts = {}
        self._uppers: list[mounting.Upper] = []
        self._step = mounting.StepMounts()
        self._running: dict[int, tuple[subprocess.Popen[bytes], socket.socket]] = {}
        self._operations: dict[str, Callable[[channel.Message, list[int]], Reply]] = {
            "open": self._open,
            "stat": lambda message, _: ({"stat": files.status(**_given(message, "path", "follow", "recorded"))}, []),
            "link": lambda message, _: ({"target": files.link_target(message["path"])}, []),
            "list": lambda message, _: ({"entries": files.entries(**_given(message, "path", "recorded"))}, []),
            "mkdir": self._mkdir,
            "place": self._place,
            "claim": self._claim,
            "changes": lambda _, __: ({"changes": files.changes(self._uppers)}, []),
            "export": lambda _, fds: ({"entries": files.export(self._uppers, fds[0])}, []),
            "signal": self._signal,
            "signal_all": self._signal_all,
            "connect": self._connect,
            "network": lambda _, __: ({}, [os.dup(self._own_network)]),
            "listeners": self._listeners,
            "sweep": self._sweep,
            "terminal": lambda _, __: ({}, list(commands.open_terminal())),
        }

    def live(self, mountpoint: bytes, last_capability: int, variant: dict[str, Any]) -> None:
        """Prepare while blank, then serve until the engine is gone."""
        privileged, host_network = variant["privileged"], variant["host_network"]
        prepared: Exception | None = None
        try:
            self._texts = rootfs.prepare(mountpoint, self._identity, privileged=privileged, host_network=host_network)
            if not host_network:
                netlink.loopback_up()
                self._names = resolver.listen()
            capabilities.bound_to(variant["capabilities"], last_capability)
            if not select.select([self._requests], [], [], 0)[0] and _has_idle_processor():
                self._rehearse()
                os.chdir(mountpoint)
        except Exception as error:
            prepared = error  # told to whoever furnishes this container
        received = channel.receive(self._requests)
        if received is None:
            return
        message, descriptors = received
        with socket.socket(fileno=descriptors.pop(0)) as answers:
            try:
                if prepared is not None:
                    raise prepared
                self._furnish(message, descriptors)
            except Exception as error:
                channel.send(answers, channel.failure(error))
                return
            channel.send(answers, {"ready": True})
        self._serve()

    def _rehearse(self) -> None:
        """Go once through what the first command will need, while nobody waits.

        Init shares its memory with the supervisor until one of them writes to it, and the kernel copies each page at
        the first write: that is a good part of a first command, and costs nobody anything here.
        """
        requests = self._requests
        engine, self._requests = channel.pair()
        with engine, self._requests:
            answers = channel.ask(engine, _REHEARSAL, [0, 1, 2])
            self._answer()
            answers.close()
        self._requests = requests
        with contextlib.suppress(OSError):
            syscalls.seccomp(b"")  # no program has no instructions

    def _furnish(self, spec: dict[str, Any], hubs: list[int]) -> None:
        for network, hub in zip(spec["networks"], hubs, strict=True):
            self._join(network, hub)
        self._isolated = spec["isolated"]
        if self._isolated:
            os.close(GATE)
        if spec["reaches_host"] and not self._reaches_host():
            raise OSError(errno.EOPNOTSUPP, "this kernel has no nftables, which the way to the host needs", "network")
        if spec["feigns_root"]:
            self._feigned = FeignedRoot()
        self._memory_limited = bool(spec.get("memory"))
        if spec.get("cgroup"):
            syscalls.unshare(constants.CLONE_NEWCGROUP)  # one that begins at the group that init was put into
            rootfs.show_cgroups(writable=spec["privileged"])
        self._uppers = rootfs.assemble(spec, self._texts, self._step)
        socket.sethostname(spec["hostname"])
        if self._identity.many_ids:
            os.setgroups([0])  # not those of whoever runs the tests: they mean nothing in here, or too much
        capabilities.hold(spec["capabilities"])
        if not spec["bare"] and spec["workdir"] != "/":
            files.make_directories(spec["workdir"], 0o755, (0, 0))  # as Docker does for a WORKDIR that is not there
        if not spec["privileged"]:
            syscalls.prctl(constants.PR_SET_NO_NEW_PRIVS, 1)
        for program in self._filters:
            syscalls.seccomp(program)

    def _serve(self) -> None:
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, _note)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        self._poll.register(self._requests, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        names = -1 if self._names is None else self._names.fileno()
        if self._names is not None:
            self._poll.register(self._names, select.POLLIN)
        while True:
            for fd, events in self._poll.poll():
                if fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 512)
                    self._reap()
                elif fd == names and self._names is not None:
                    with contextlib.suppress(OSError):
                        self._resolve(self._names)
                elif self._feigned is not None and fd in self._feigned:
                    if not self._feigned.serve(fd, events):
                        self._poll.unregister(fd)
                elif not self._answer():
                    return

    def _resolve(self, names: socket.socket) -> None:
        """Answer one query; the first for the host's address opens the way to it."""
        query, asker = resolver.receive(names)
        asked = resolver.question(query)
        if asked is None:
            return
        address, failed = None, False
        if asked.name == resolver.HOST_NAME and asked.ipv4 and not self._isolated:
            address = resolver.HOST_ADDRESS if self._reaches_host() else None
            failed = address is None
        names.sendto(resolver.answer(query, asked, address, failed=failed), asker)

    def _reaches_host(self) -> bool:
        """Whether there is a way to the host, which is made if there is none; it goes with this process."""
        if self._gateway is None:
            try:
                with socket.socket(fileno=os.dup(GATE)) as gate:
                    asked = channel.ask(gate, {}, [self._own_network])
            except OSError:  # an init that was taken over has shut it
                return False
            try:
                channel.answer(asked, _PATIENCE)
            except OSError:
                asked.close()
                return False
            self._gateway = asked
        return True

    def _answer(self) -> bool:
        try:
            received = channel.receive(self._requests)
        except OSError:  # no room for its descriptors: who asked sees the other end of the answers closed
            return True
        if received is None:
            return False
        message, descriptors = received
        answers = socket.socket(fileno=descriptors.pop(0))
        kept = handed = False
        reply: list[int] = []
        try:
            if message["op"] == "exec":
                kept = self._execute(message, descriptors, answers)
            else:
                body, reply = self._operations[message["op"]](message, descriptors)
                channel.send(answers, body, reply)
                handed = True
        except BrokenPipeError:
            pass  # whoever asked has gone
        except Exception as error:
            if not handed:
                with contextlib.suppress(BrokenPipeError):
                    channel.send(answers, channel.failure(error))
        finally:
            if not kept:
                answers.close()
            for fd in (*descriptors, *reply):
                os.close(fd)
        return True

    def _execute(self, message: channel.Message, stdio: list[int], answers: socket.socket) -> bool:
        with self._victims if self._memory_limited else contextlib.nullcontext():
            if self._feigned is None:
                process = commands.start(message, stdio, self._accounts, many_ids=self._identity.many_ids)
            else:
                process, listener = self._feigned.start(message, stdio, self._accounts)
                if listener is not None:
                    self._poll.register(listener, select.POLLIN)
        self._running[process.pid] = (process, answers)
        try:
            channel.send(answers, {"pid": process.pid})
        except BrokenPipeError:  # whoever asked has given up, and nobody else knows of it
            os.killpg(process.pid, signal.SIGKILL)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                process, answers = self._running.pop(pid)
                process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, so Popen must not wait for it
                with answers, contextlib.suppress(BrokenPipeError):
                    channel.send(answers, {"exit": process.returncode})

    def _open(self, message: channel.Message, _: list[int]) -> Reply:
        return {}, [files.open_file(message["path"], message["flags"], message["mode"])]

    def _mkdir(self, message: channel.Message, _: list[int]) -> Reply:
        owner, lacks = commands.owner(message["user"])
        files.make_directories(message["path"], message["mode"], owner)
        return {"lacks": lacks}, []

    def _place(self, message: channel.Message, roots: list[int]) -> Reply:
        parents_owner, lacks = commands.owner(message["user"] or "")
        owner = None if message["user"] is None else parents_owner
        parents = {"parents_owner": parents_owner, "parents_mode": message.get("parents_mode", 0o755)}
        placement.place({**message, "owner": owner, **parents}, roots)
        return {"lacks": lacks}, []

    def _claim(self, message: channel.Message, _: list[int]) -> Reply:
        who = commands.account(message["user"])
        files.claim(message["paths"], who.uid, who.gid)
        return {}, []

    def _signal(self, message: channel.Message, _: list[int]) -> Reply:
        pid = message["pid"]
        if pid > 0 and pid not in self._running:  # ended and reaped: the number may be another's by now
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), f"process {pid}")
        os.kill(pid, message["signal"])
        return {}, []

    def _signal_all(self, message: channel.Message, _: list[int]) -> Reply:
        try:
            os.kill(-1, message["signal"])  # everybody in this PID namespace but init itself: kill(2)
        except ProcessLookupError:
            return {"anybody": False}, []
        return {"anybody": True}, []

    def _connect(self, message: channel.Message, _: list[int]) -> Reply:
        """A socket on its way to a port of this container; whether it arrived is for the one who asked to see.

        Init must not wait: a server that accepts nobody leaves a connection in SYN-SENT for minutes.
        """
        kind = socket.SOCK_DGRAM if message.get("udp") else socket.SOCK_STREAM
        refused: OSError | None = None
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            error = sock.connect_ex((host, message["port"]))
            if error == errno.EINPROGRESS and kind == socket.SOCK_STREAM:
                # On loopback the answer to a SYN is there when connect(2) returns: a refusal shows at once.
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error in (0, errno.EINPROGRESS):
                return {"ok": True}, [sock.detach()]
            sock.close()
            refused = refused or OSError(error, os.strerror(error), f"port {message['port']}")
        raise refused or AssertionError

    def _listeners(self, _: channel.Message, __: list[int]) -> Reply:
        return {}, [sock.detach() for sock in self._step.listeners]

    def _sweep(self, _: channel.Message, __: list[int]) -> Reply:
        self._step.sweep()
        return {}, []

    def _join(self, network: dict[str, Any], hub: int) -> None:
        bridge.attach(hub, self._own_network, **network)


def _has_idle_processor() -> bool:
    """Whether fewer processes want to run now than could, in all of this machine: proc(5), loadavg."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        file = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        try:
            running = os.read(file, 128).split()[3].partition(b"/")[0]
        finally:
            os.close(file)
        return int(running) <= (os.cpu_count() or 1)
    return False


def _given(message: channel.Message, *names: str) -> dict[str, Any]:
    """The arguments in a request, those that it leaves out left out."""
    return {name: message[name] for name in names if name in message}


def _note(signum: int, frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written."""
