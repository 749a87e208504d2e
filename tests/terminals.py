"""A real terminal that a test types at, with one of our programs on it."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time

TIMEOUT = 60
# The terminal must control the session, so that a resize is told to it.
ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A terminal window: ``type`` into it, ``expect`` what it shows."""

    def __init__(self, environment):
        self.master, self.slave = os.openpty()
        self.resize(31, 97)
        self.before = termios.tcgetattr(self.slave)
        self.environment = environment
        self.shown = b""
        self.process = None

    def start(self, *words, module="pytest_capsule", folder=None):
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, sys.executable, "-m", module, *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=folder,
            env=self.environment,
            start_new_session=True,
        )
        return self

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern):
        """Read until ``pattern`` is shown; what came before it is dropped."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := re.search(pattern.encode(), self.shown)):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} was not shown, but {self.shown!r}"
            self.shown += os.read(self.master, 65536)
        self.shown = self.shown[found.end() :]
        return found

    def exit_code(self):
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; it shows {self.shown!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 65536)
        return self.process.returncode

    @property
    def restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
