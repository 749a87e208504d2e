"""Run a command, and say on stderr what of it is still there after its end: ``leftovers.py WORD...``.

Whatever loses its parent becomes a child of this process, so nothing that the command has started is overlooked.
"""

import ctypes
import os
import subprocess
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 20  # seconds


def main():
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    code = subprocess.call(sys.argv[1:])
    deadline = time.monotonic() + PATIENCE
    while orphans_remain() and time.monotonic() < deadline:
        time.sleep(0.01)
    for orphan in psutil.Process().children(recursive=True):
        sys.stderr.write(f"left behind: {orphan}\n")
        orphan.kill()
    sys.exit(code if code >= 0 else 128 - code)


def orphans_remain():
    """Reap those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    main()
