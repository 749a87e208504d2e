"""A way out for one container: slirp4netns or pasta, at work between the container's network namespace and the host's.

Both give the same addresses, so that a container's files can be written before either runs. What the host serves on its
own loopback only is not to be had that way.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess

from pytest_capsule._linux import channel, constants, syscalls

ADDRESS = "10.0.2.100"
NAMESERVER = "10.0.2.3"
PROGRAMS = ("slirp4netns", "pasta")
"""What can do it, the first that is installed."""

_PATIENCE = 10  # seconds until it must be ready


def serve(sock: socket.socket) -> None:
    """Run the program that the first message names, until the other side ends.

    It makes the ``interface`` that the message names in the namespace that comes with it, and routes by that.
    """
    received = channel.receive(sock)
    if received is None:
        return
    message, (answers, namespace) = received
    with socket.socket(fileno=answers) as asked:
        program: subprocess.Popen[bytes] | None = None
        try:
            program = start(message["program"], namespace, message["interface"])
            channel.send(asked, {})
        except OSError as error:
            channel.send(asked, channel.failure(error))
            return
        finally:
            os.close(namespace)
    with program:
        channel.receive(sock)
        program.kill()


def start(path: str, namespace: int, interface: str) -> subprocess.Popen[bytes]:
    """The program at work; ``OSError`` with its own words when it is not."""
    ready, done = os.pipe2(os.O_CLOEXEC)
    said = os.memfd_create("said")
    # The program opens descriptors of ours by their names in /proc, which it may only where it has all that we have:
    # ptrace(2), "Ptrace access mode checking". As root of its user namespace it gets its own capabilities anew.
    syscalls.capset(0, 0, 0)
    syscalls.prctl(constants.PR_SET_DUMPABLE, 1)
    ours = f"/proc/{os.getpid()}/fd"
    words = _WORDS[os.path.basename(path)](f"{ours}/{namespace}", interface, f"{ours}/{done}", done)
    try:
        program = subprocess.Popen(
            [path, *words],
            pass_fds=(done,),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            preexec_fn=_die_with_parent,
        )
        ended = os.pidfd_open(program.pid)
        try:
            if ready in select.select([ready, ended], [], [], _PATIENCE)[0]:
                return program
        finally:
            os.close(ended)
        program.kill()
        program.wait()
        raise OSError(0, os.pread(said, 4096, 0).decode(errors="replace").strip().rpartition("\n")[2], path)
    finally:
        for fd in (done, said, ready):
            os.close(fd)


def _slirp4netns(namespace: str, interface: str, _: str, ready: int) -> list[str]:
    options = ["--netns-type=path", "--configure", "--mtu=65520", "--disable-host-loopback", f"--ready-fd={ready}"]
    return [*options, namespace, interface]


def _pasta(namespace: str, interface: str, ready: str, _: int) -> list[str]:
    addresses = ["--address", ADDRESS, "--netmask", "24", "--gateway", "10.0.2.2", "--dns-forward", NAMESERVER]
    closed = ["--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    # Started by root it would become nobody, who may not enter a namespace of root's.
    return [
        *("--runas", "0", "--foreground", "--quiet", "--pid", ready),
        *("--config-net", "--netns-only", "--netns", namespace, "--ns-ifname", interface, *addresses, *closed),
    ]


_WORDS = {"slirp4netns": _slirp4netns, "pasta": _pasta}


def _die_with_parent() -> None:
    syscalls.prctl(constants.PR_SET_PDEATHSIG, signal.SIGKILL)
