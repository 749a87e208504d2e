"""The main process: its logs, its signals, its end and its new beginning."""

from __future__ import annotations

import os
import signal

import pytest

from pytest_capsule.errors import ContainerError, UsageError

SERVER = """
import os, signal, sys
def stop(*_):
    os.write(1, b"stopping\\n")  # print cannot: the signal may come in the middle of the one below
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1000 & wait $!; done"


def test_hello_world(engine):
    with engine.run("hello-world") as container:
        assert container.wait(timeout=10) == 0
        assert "Hello from" in container.logs()
        assert (container.status, container.exit_code) == ("exited", 0)


def test_logs_are_in_order_and_the_streams_apart(engine):
    script = "import os\nfor n in range(300): os.write(1 + n % 2, b'%d\\n' % n)"
    with engine.run("capsule/host", command=["python3", "-c", script]) as container:
        assert container.wait(10) == 0
        out, err = container.logs("stdout").split(), container.logs("stderr").split()
        assert out == [str(n) for n in range(0, 300, 2)]
        assert err == [str(n) for n in range(1, 300, 2)]
        assert sorted(container.logs().split(), key=int) == [str(n) for n in range(300)]
        with pytest.raises(UsageError, match="stream='all'"):
            container.logs("all")


def test_a_burst_before_the_end_is_all_there(engine):
    with engine.run("capsule/host", command="head -c 1048576 /dev/zero | tr '\\0' x; echo; echo last") as container:
        assert container.wait(20) == 0
        assert container.logs() == "x" * (1 << 20) + "\nlast\n"


def test_what_was_printed_before_the_question_is_in_the_answer(engine):
    with engine.run("capsule/host", command=["cat"], stdin="line\n") as container:
        assert container.wait(10) == 0
        assert container.logs() == "line\n"


def test_a_large_stdin_that_nobody_reads_holds_nothing_up(engine):
    with engine.run("capsule/host", command=["sleep", "1000"], stdin=b"x" * (1 << 20)) as container:
        assert container.status == "running"
    with engine.run("capsule/host", command=["wc", "-c"], stdin=b"x" * (1 << 20)) as container:
        assert container.wait(10) == 0
        assert container.logs().split() == [str(1 << 20)]


def test_a_server_that_prints_for_ever_can_be_read_and_stopped(engine, eventually):
    with engine.run("capsule/host", command=["yes"]) as container:
        eventually(lambda: len(container.logs()) > 1 << 20)
        container.kill()
        assert container.wait(10) == 137


def test_wait_gives_up(engine):
    with engine.run("capsule/host", command=["sleep", "1000"]) as container:
        with pytest.raises(TimeoutError, match="still runs"):
            container.wait(0.05)
        assert (container.status, container.exit_code) == ("running", None)


def test_a_container_with_no_main_process_has_nothing_to_wait_for(host):
    assert (host.status, host.exit_code, host.logs(), host.main) == ("running", None, "", None)
    for ask in (host.wait, host.kill, host.restart):
        with pytest.raises(UsageError, match="no main process"):
            ask()


def test_stop_lets_a_server_end_itself(engine, eventually):
    with engine.run("capsule/host", command=["python3", "-c", SERVER]) as container:
        eventually(lambda: "ready" in container.logs())
        container.stop(timeout=20)
        assert (container.exit_code, container.status) == (5, "exited")
        assert container.logs() == "ready\nstopping\n"


def test_stop_kills_who_does_not_listen(engine, eventually):
    with engine.run("capsule/host", command=STUBBORN) as container:
        eventually(lambda: "ready" in container.logs())
        container.stop(timeout=0.1)
        assert container.exit_code == 137
        eventually(lambda: len(container.top()) == 1)


@pytest.mark.parametrize(
    ("command", "killed_by"), [("exit 137", None), ("kill -HUP $$", "SIGHUP"), ("kill -40 $$", "signal 40")]
)
def test_the_signal_that_ended_it_is_known(engine, command, killed_by):
    with engine.run("capsule/host", command=f"until [ -e /go ]; do sleep 0.01; done; {command}") as container:
        assert container.killed_by is None
        container.write_text("/go", "")
        container.wait(60)
        assert container.killed_by == killed_by


def test_kill_takes_a_name_or_a_number(engine, eventually):
    for number in ("SIGTERM", "term", signal.SIGTERM, 15, "15"):
        with engine.run("capsule/host", command=["sleep", "1000"]) as container:
            container.kill(number)
            assert container.wait(10) == 143
    with engine.run("capsule/host", command=["sleep", "1000"]) as container:
        for none in ("SIGNONE", "", 0, 999, "RTMAX+1", "RTMIN-1", "TERM+1", "_DFL", "²", "RTMAX-99"):
            with pytest.raises(UsageError, match="no such signal"):
                container.kill(none)
        container.kill("RTMIN+3")
        assert container.wait(10) == 128 + signal.SIGRTMIN + 3
    for name, number in (("SIGRTMAX-14", signal.SIGRTMAX - 14), ("STKFLT", 16), ("IOT", signal.SIGABRT)):
        with engine.run("capsule/host", command=["sleep", "1000"]) as container:
            container.kill(name)
            assert container.wait(10) == 128 + number


def test_a_restart_keeps_the_files(engine, eventually):
    with engine.run("capsule/host", command="cat /tmp/n; echo run >>/tmp/n; sleep 1000") as container:
        eventually(lambda: container.exists("/tmp/n"))
        first = container.main.pid
        container.restart(timeout=0)
        eventually(lambda: "run" in container.logs())
        assert container.status == "running"
        assert container.main.pid != first


def test_a_paused_container_stands_still(engine, eventually):
    with engine.run("capsule/host", command="n=0; while :; do n=$((n+1)); echo $n; done >/tmp/n") as container:

        def count():
            return int((container.read_text("/tmp/n").split() or ["0"])[-1])

        eventually(lambda: container.exists("/tmp/n") and count() > 10)
        container.pause()
        assert container.status == "paused"
        eventually(lambda: count() == count())  # by signals, where there is no freezer, it takes a moment
        before = count()
        with pytest.raises(ContainerError, match="paused"):
            container.exec(["true"])
        assert count() == before
        container.unpause()
        assert container.status == "running"
        eventually(lambda: count() > before)


def test_a_paused_container_can_be_stopped(engine):
    with engine.run("capsule/host", command=["sleep", "1000"]) as container:
        container.pause()
        container.stop(timeout=20)
        assert container.exit_code == 143


def test_the_pid_is_the_hosts(engine):
    with engine.run("capsule/host", command=["sleep", "1000"]) as container:
        with open(f"/proc/{container.pid}/cmdline", "rb") as file:
            assert file.read() == b"sleep\0001000\0"
        assert os.path.exists(f"/proc/{container.init_pid}")
        assert [one["name"] for one in container.top()] == ["init", "sleep"]
        assert container.stats()["pids"] >= 1
