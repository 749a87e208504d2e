"""Programs of others that the tests compare with or talk to: found, or started for one test."""

import contextlib
import os
import shutil
import subprocess
import time

import pytest

DEADLINE = 60  # seconds until a daemon answers, or has ended
# Debian's package, where it has another name than the program.
PACKAGES = {
    "busybox": "busybox-static",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "htpasswd": "apache2-utils",
    "ssh-agent": "openssh-client",
}


def peer(program):
    """The program's path; where it is missing the test is skipped, and fails in CI."""
    return shutil.which(program) or without(program, PACKAGES.get(program, program))


def without(what, package):
    """End a test that needs what is not here: skipped, and failed in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing: sudo apt-get install {package}")


@contextlib.contextmanager
def docker_daemon(room, *options, client="docker"):
    """A dockerd without a network that keeps all it has in the folder ``room``; gives the words of its client."""
    words = [peer(client), "--host", f"unix://{room}/socket", "--config", str(room)]
    daemon = [peer("dockerd"), "--iptables=false", "--ip6tables=false", "--bridge=none", f"--data-root={room}/data"]
    daemon += [f"--exec-root={room}/exec", f"--pidfile={room}/pid", f"--host=unix://{room}/socket", *options]
    with open(room / "log", "wb") as log:
        process = subprocess.Popen(daemon, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + DEADLINE
        while subprocess.run([*words, "version"], capture_output=True, check=False).returncode:
            assert process.poll() is None and time.monotonic() < end, (room / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield words
    finally:
        process.terminate()
        process.wait(DEADLINE)
