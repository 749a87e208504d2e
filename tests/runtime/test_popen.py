"""``container.popen``: what ``subprocess.Popen`` is on the host."""

from __future__ import annotations

import os
import select
import signal
import subprocess

import pytest

from pytest_capsule.errors import CommandNotFound

DEADLINE = 20


def test_lines_come_as_they_are_printed(host):
    process = host.popen(["cat"])
    for word in ("one", "two"):
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{word}\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(DEADLINE) == 0
    assert process.stdout.read() == ""


def test_bytes_on_request(host):
    with host.popen(["cat"], text=False) as process:
        process.stdin.write(b"\0\xff")
        process.stdin.close()
        assert process.stdout.read() == b"\0\xff"


def test_wait_gives_up_after_its_timeout(host):
    process = host.popen(["sleep", "1000"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    assert process.poll() is None
    process.kill()
    assert process.wait(DEADLINE) == -signal.SIGKILL
    assert process.exit_code == 137


def test_a_return_code_is_negative_for_a_signal(host):
    process = host.popen(["sleep", "1000"])
    process.terminate()
    assert process.wait(DEADLINE) == -signal.SIGTERM
    process.send_signal(signal.SIGTERM)  # to a command that has ended: nothing


def test_communicate_feeds_and_reads(host):
    process = host.popen("cat; echo err >&2; exit 4")
    assert process.communicate("in") == ("in", "err\n")
    assert process.returncode == 4
    process.close()


def test_communicate_goes_on_after_a_timeout(host):
    process = host.popen("echo first; cat; echo last", text=False)
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        process.communicate(b"x" * 300_000 + b"\n", timeout=0)
    assert caught.value.timeout == 0
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert stdout == b"first\n" + b"x" * 300_000 + b"\nlast\n"
    assert stderr == b""
    process.close()


def test_streams_may_be_files_or_nothing(host, tmp_path):
    with open(tmp_path / "out", "wb") as out:
        process = host.popen("echo out; echo err >&2", stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        assert process.wait(DEADLINE) == 0
        process.close()
    assert (tmp_path / "out").read_text() == "out\nerr\n"
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)


def test_a_descriptor_tells_of_the_end(host):
    process = host.popen(["true"])
    assert select.select([process], [], [], DEADLINE)[0] == [process]
    assert process.poll() == 0


def test_a_missing_program_leaves_nothing_open(host):
    before = os.listdir("/proc/self/fd")
    for tty in (False, True):
        with pytest.raises(CommandNotFound):
            host.popen(["no-such-program"], tty=tty)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_a_test_leaves_open_goes_with_its_container(engine):
    before = os.listdir("/proc/self/fd")
    with engine.run("capsule/host", command=[]) as container:
        left = container.popen(["cat"])
    assert left.returncode == -signal.SIGKILL
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def read_until(terminal: int, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        assert select.select([terminal], [], [], DEADLINE)[0], seen
        seen += os.read(terminal, 4096)
    return seen


def test_a_terminal_is_one(host):
    process = host.popen("test -t 0 && test -t 1 && test -t 2 && tty && echo $TERM", tty=True)
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    assert read_until(process.terminal, b"xterm").split() == [b"/dev/pts/0", b"xterm"]
    assert process.wait(DEADLINE) == 0


def test_a_terminal_has_a_size_and_tells_of_a_new_one(host):
    # waited for, not handled: Python would run a handler only when its read returns
    script = "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])\n"
    script += "print(*os.get_terminal_size(), 'ready', flush=True)\n"
    script += "signal.sigwait([signal.SIGWINCH])\nprint(*os.get_terminal_size(), flush=True)\n"
    process = host.popen(["python3", "-c", script], tty=True, window=(24, 80))
    assert b"80 24" in read_until(process.terminal, b"ready")
    process.resize(40, 132)
    assert b"132 40" in read_until(process.terminal, b"132 40")
    assert process.wait(DEADLINE) == 0


def test_a_terminal_echoes_and_passes_control_c_on(host):
    process = host.popen(["cat"], tty=True)
    os.write(process.terminal, b"typed\n")
    assert read_until(process.terminal, b"typed\r\ntyped\r\n") == b"typed\r\ntyped\r\n"
    os.write(process.terminal, b"\x03")
    assert process.wait(DEADLINE) == -signal.SIGINT


@pytest.mark.identities("root", "range")
def test_a_terminal_belongs_to_the_user(debian):
    process = debian.popen("echo hello >/dev/tty && echo there >$(tty)", user="daemon", tty=True)
    assert read_until(process.terminal, b"there").split() == [b"hello", b"there"]
    assert process.wait(DEADLINE) == 0
