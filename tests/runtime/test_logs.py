"""Logs: both streams told apart and in order, with times, followed live, bounded, complete after the end."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime, timezone

import pytest

from pytest_capsule import UsageError, wait
from pytest_capsule.runtime.logs import COST, Log

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


def test_streams_apart_and_in_order(engine):
    script = "for i in 1 2 3; do echo out $i; sleep 0.05; echo err $i >&2; sleep 0.05; done"
    with engine.run("capsule/host", command=["sh", "-c", script], wait=wait.exited()) as container:
        assert container.logs("stdout") == "out 1\nout 2\nout 3\n"
        assert container.logs("stderr") == "err 1\nerr 2\nerr 3\n"
        assert container.logs() == "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"


def test_times(engine):
    before = datetime.now(timezone.utc).replace(microsecond=0)
    with engine.run("capsule/host", command=["printf", "one\\ntwo\\nhalf"], wait=wait.exited()) as container:
        lines = container.logs(timestamps=True).split("\n")
    assert [STAMP.sub("", line) for line in lines] == ["one", "two", "half"]
    for line in lines:
        assert STAMP.match(line)
        assert datetime.fromisoformat(f"{line[:19]}+00:00") >= before


def test_followed_live(engine):
    script = "while read line; do echo got $line; done; echo end >&2; printf rest"
    read, write = os.pipe()
    with (
        os.fdopen(write, "wb", 0) as ours,
        os.fdopen(read) as theirs,
        engine.run("capsule/host", command=["sh", "-c", script], stdin=theirs) as container,
    ):
        lines = container.logs(follow=True)
        for number in range(3):
            ours.write(b"%d\n" % number)
            assert next(lines) == f"got {number}\n"
        ours.close()
        assert sorted(lines) == ["end\n", "rest"]
        assert list(container.logs("stderr", follow=True)) == ["end\n"]
        with pytest.raises(UsageError, match="not both"):
            container.logs(follow=True, timestamps=True)


def test_a_follower_ends_with_the_container(engine, in_thread):
    container = engine.run("capsule/host", command=["sh", "-c", "echo up; sleep 1000"], wait=wait.log("up"))
    lines = in_thread(lambda: list(container.logs(follow=True)))
    container.close()
    assert lines() == ["up\n"]
    with engine.run("capsule/host", command=[]) as container:
        assert list(container.logs(follow=True)) == []


def test_a_daemon_that_stays_does_not_hold_a_follower_up(engine):
    with engine.run("capsule/host", command=["sh", "-c", "sleep 1000 & echo done"]) as container:
        assert list(container.logs(follow=True)) == ["done\n"]


def test_all_is_there_after_the_end(engine):
    with engine.run("capsule/host", command=["sh", "-c", "seq 200000; exit 3"]) as container:
        assert container.wait(timeout=60) == 3
        assert container.logs().count("\n") == 200000
        container.close()
        assert container.logs().endswith("200000\n")


def test_what_came_first_is_read_first():
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    log = Log(out, err)
    for number in range(10):
        first, second = (to_err, to_out) if number % 3 else (to_out, to_err)
        os.write(first, b"%d\n" % (2 * number))
        os.write(second, b"%d\n" % (2 * number + 1))
        assert log.data("both") == b"".join(b"%d\n" % line for line in range(2 * number + 2))
    os.close(to_err)
    for fd in (to_out, to_out):
        assert log.drain() == [err]  # until it is closed, whoever has read its end
        os.write(fd, b"last\n")
    assert log.data("stdout").endswith(b"last\nlast\n")
    os.close(to_out)
    for fd in log.drain():
        log.end(fd)
    assert log.descriptors() == log.drain() == []


def test_of_too_much_the_latest_is_kept():
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    log = Log(out, err, limit=20 * (50 + COST))
    for number in range(100):
        os.write(to_out if number % 2 else to_err, b"%-49d\n" % number)
        log.drain()
    kept = log.data("both").split()
    assert kept == [b"%d" % number for number in range(80, 100)]
    os.close(to_out)
    os.close(to_err)
    for fd in log.drain():
        log.end(fd)
    assert [line.strip() for line in log.follow("stdout")] == kept[1::2]


def test_a_log_line_wakes_who_waits_for_it(engine):
    with engine.run("capsule/host", command=["sh", "-c", "sleep 0.3; echo ready; sleep 1000"]) as container:
        moment = container.moment()
        started = time.monotonic()
        container.wait_change(moment, 60)
        assert time.monotonic() - started < 30
        assert container.logs() == "ready\n"
        moment = container.moment()
        container.kill()
        container.wait_change(moment, 60)
        assert container.wait(timeout=20) == 137
        assert time.monotonic() - started < 60
