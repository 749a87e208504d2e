"""``capsule run -it`` on a real terminal, typed at by the test."""

import os
import select
import signal

import pytest
from terminals import TIMEOUT, Terminal

HOST = "capsule/host"


@pytest.fixture
def terminal(cli_environment):
    terminal = Terminal({**cli_environment, "PS1": "$ "})
    yield terminal
    terminal.close()


def test_a_shell(terminal):
    terminal.start("run", "-it", "--rm", "-e", "PS1=here> ", HOST, "sh")
    terminal.expect("here> ")
    terminal.type("echo $((6*7)); tty\r")
    terminal.expect(r"echo \$\(\(6\*7\)\); tty\r\n42\r\n/dev/pts/0\r\n")  # one echo: that of the terminal inside
    terminal.expect("here> ")
    # no shell's sleep: dash loses a Ctrl-C between the vfork and the exec of a command
    terminal.type("""python3 -c 'import time; print("begun", flush=True); time.sleep(1000)'\r""")
    terminal.expect(r"\nbegun\r\n")
    terminal.type("\x03")  # Ctrl-C is for the program: shell and container go on
    terminal.expect("here> ")
    terminal.type("exit 5\r")
    assert terminal.exit_code() == 5
    assert terminal.restored


SIZES = """
import os, signal
told = {signal.SIGWINCH, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, told)
number = signal.SIGWINCH
while number == signal.SIGWINCH:
    print("size", *os.get_terminal_size(), flush=True)
    number = signal.sigwait(told)
print("interrupted", flush=True)
raise SystemExit(7)
"""


def test_the_window_has_its_size_at_once_and_follows(terminal):
    terminal.start("run", "-ti", HOST, "python3", "-c", SIZES)
    terminal.expect("size 97 31\r\n")
    assert not terminal.restored  # raw, so that every key is for the program inside
    terminal.resize(40, 120)
    terminal.expect("size 120 40\r\n")
    terminal.type("\x03")
    terminal.expect("interrupted\r\n")
    assert terminal.exit_code() == 7
    assert terminal.restored


def test_sigterm_is_for_the_program_and_the_third_one_ends_it(terminal):
    terminal.start("run", "-it", HOST, "sh", "-c", "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done")
    terminal.expect("ready")
    for _ in range(2):
        terminal.process.terminate()
        terminal.expect("no\r\n")
    terminal.process.terminate()
    assert terminal.exit_code() == 128 + signal.SIGKILL
    assert terminal.restored


def test_restored_when_the_command_is_not_there(terminal):
    terminal.start("run", "-it", HOST, "no-such-program")
    assert terminal.exit_code() == 127
    assert b"no-such-program" in terminal.shown
    assert terminal.restored


def test_a_large_paste_is_taken_while_much_is_shown(terminal):
    program = (
        "import os, sys, tty\n"
        "tty.setraw(0)\n"
        "print('ready', flush=True)\n"
        "left = 200000\n"
        "while left:\n"
        "    data = os.read(0, left)\n"
        "    left -= len(data)\n"
        "    os.write(1, data)\n"
        "print('all of it', flush=True)\n"
    )
    terminal.start("run", "-it", HOST, "python3", "-c", program)
    terminal.expect("ready\n")
    os.set_blocking(terminal.master, False)
    left = b"x" * 200_000
    while left or terminal.shown.count(b"x") < 200_000:
        readable, writable, _ = select.select([terminal.master], [terminal.master] if left else [], [], TIMEOUT)
        assert readable or writable
        if writable:
            left = left[os.write(terminal.master, left[:4096]) :]
        if readable:
            terminal.shown += os.read(terminal.master, 65536)
    terminal.expect("all of it")
    assert terminal.exit_code() == 0


def test_without_t_no_terminal_of_ours_gets_inside(terminal):
    script = "test -t 0 || test -t 1 || test -t 2 || echo no terminal; cat; exit 6"
    terminal.start("run", "-i", HOST, "sh", "-c", script)
    terminal.expect("no terminal\r\n")
    terminal.type("typed\r")
    terminal.expect("typed\r\ntyped\r\n")  # once by our own terminal, which is not raw, once by cat
    terminal.type("\x04")
    assert terminal.exit_code() == 6
    assert terminal.restored


def test_ctrl_c_without_t_is_the_signal(terminal):
    script = "trap 'echo got INT; exit 8' INT; echo ready; while :; do sleep 0.05; done"
    terminal.start("run", HOST, "sh", "-c", script)
    terminal.expect("ready\r\n")
    terminal.type("\x03")
    terminal.expect("got INT\r\n")
    assert terminal.exit_code() == 8


def test_everything_that_was_written_is_shown(capsule):
    done = capsule("run", "-t", HOST, "seq", "30000", text=False)
    assert done.returncode == 0
    assert done.stdout == b"".join(b"%d\r\n" % number for number in range(1, 30001))


def test_a_build_is_drawn_in_place(terminal, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {HOST}\nRUN echo inside; read x </dev/tty || true; echo done\n")
    terminal.environment["TERM"] = "xterm"
    terminal.start("build", "-t", "drawn", str(tmp_path))
    terminal.expect(r"\x1b\[\?25l")
    terminal.expect(r" => => # inside")
    terminal.expect(r"\[\+\] Building \d+\.\ds \(6/6\) FINISHED")
    terminal.expect(r" => exporting to image docker\.io/library/drawn:latest +0\.0s")
    terminal.expect(r"\x1b\[\?25h")
    assert terminal.exit_code() == 0


def test_ctrl_c_ends_a_build_and_gives_the_cursor_back(terminal, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {HOST}\nRUN echo begun; sleep 1000\n")
    terminal.environment["TERM"] = "xterm"
    terminal.start("build", str(tmp_path))
    terminal.expect(r" => => # begun")
    terminal.type("\x03")
    terminal.expect(r"CANCELED \[2/2\] RUN echo begun|\[2/2\] RUN echo begun")
    terminal.expect(r"\x1b\[\?25h")
    assert terminal.exit_code() == 130
    assert terminal.restored


def test_a_shell_in_what_a_failed_step_left(terminal, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {HOST}\nWORKDIR /srv\nRUN echo half > result; exit 4\n")
    terminal.environment["TERM"] = "xterm"
    terminal.start("build", "--on-error=shell", str(tmp_path))
    terminal.expect(r"capsule: /bin/sh in failed/")
    terminal.type("test -t 0 && pwd && cat result\r")
    terminal.expect(r"/srv\r\nhalf\r\n")
    terminal.type("exit\r")
    assert terminal.exit_code() == 1
    assert terminal.restored
