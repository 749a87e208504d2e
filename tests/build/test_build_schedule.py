"""Stages at the same time, and how the failure of one ends the others."""

import contextlib
import socket
import threading
import time

import pytest

from pytest_capsule.build.events import BuildEvent
from pytest_capsule.build.schedule import Schedule
from pytest_capsule.errors import BuildError, DockerfileError

WAIT = 60  # seconds, for what takes none


class Gate:
    """A port that a RUN waits at until it is let through: RUN has the host's network."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(WAIT)
        self.wait = f"read line </dev/tcp/127.0.0.1/{self.server.getsockname()[1]}"

    def open(self):
        connection, _ = self.server.accept()
        connection.sendall(b"go\n")
        connection.close()


@pytest.fixture
def gate():
    gate = Gate()
    with contextlib.closing(gate.server):
        yield gate


TWO = """\
FROM capsule/host AS base
SHELL ["/bin/bash", "-c"]
FROM base AS a
RUN echo from a > /a; echo a runs; {a}
FROM base AS b
RUN echo from b > /b; echo b runs; {b}
FROM base
COPY --from=a /a /
COPY --from=b /b /
"""


def test_stages_that_do_not_need_each_other_run_at_the_same_time(project, gate):
    other = Gate()
    with contextlib.closing(other.server):
        project.write("Dockerfile", TWO.format(a=gate.wait, b=other.wait))
        waiting = {"a runs\n", "b runs\n"}

        def hear(event):
            waiting.discard(event.text)
            if not waiting and event.kind == "output":  # each waits until both have said that they run
                gate.open()
                other.open()

        image = project.engine.build(project.root, progress=hear)
    with project.files(image) as container:
        assert (container.read_text("/a"), container.read_text("/b")) == ("from a\n", "from b\n")


def test_the_first_failure_ends_the_other_stages(project, gate):
    project.write("Dockerfile", TWO.format(a="sleep 600", b=f"{gate.wait}; exit 3"))
    ends = []

    def hear(event):
        if event.text == "a runs\n":
            gate.open()
        if event.kind in ("failed", "canceled"):
            ends.append((event.kind, event.name[:5]))

    with pytest.raises(BuildError, match="RUN echo from b") as caught:
        project.engine.build(project.root, progress=hear)
    assert caught.value.exit_code == 3
    assert ends == [("failed", "[b 1/"), ("canceled", "[a 1/")]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("capsule-stage")] == []
    assert project.files(project.engine.image(caught.value.image)).close() is None, "the engine goes on"


def test_who_looks_on_and_fails_ends_the_build(project):
    def hear(event):
        if event.kind == "output":
            raise KeyboardInterrupt

    project.write("Dockerfile", TWO.format(a="sleep 600", b="sleep 600"))
    with pytest.raises(KeyboardInterrupt):
        project.engine.build(project.root, progress=hear)
    assert project.build("FROM capsule/host\nRUN true\n")


def test_an_interrupt_ends_a_pull(project, monkeypatch):
    def pull(reference, note, **_):
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            note("")
        raise AssertionError("it was not told to stop")

    def hear(event):
        if "load metadata" in event.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(project.engine, "_find_base", pull)
    project.write("Dockerfile", "FROM large\n")
    with pytest.raises(KeyboardInterrupt):
        project.engine.build(project.root, progress=hear)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("capsule-stage")] == []


def test_events_come_in_the_thread_that_builds(project):
    threads = set()
    project.write("Dockerfile", TWO.format(a="true", b="true"))
    project.engine.build(project.root, progress=lambda event: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


def test_every_image_is_looked_for_before_the_first_step(project):
    with pytest.raises(DockerfileError, match="no image 'no-such-image'") as caught:
        project.build("FROM scratch AS a\nWORKDIR /a\nFROM a\nCOPY --from=no-such-image / /\n")
    assert caught.value.line == 4
    assert project.kinds() == []


def order_of(needs, limit):
    """In which order a schedule does its work, and how much of it at once at most."""
    order, running, most = [], set(), [0]
    lock = threading.Lock()

    def work(key):
        with lock:
            running.add(key)
            most[0] = max(most[0], len(running))
        schedule.tell(BuildEvent("output", str(key)))
        with lock:
            running.discard(key)
            order.append(key)

    schedule = Schedule(lambda event: None, lambda: None, limit=limit)
    schedule.run(needs, work)
    return order, most[0]


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_work_comes_after_what_it_needs(limit):
    needs = {4: {3, 2}, 3: {1}, 2: {1}, 1: set(), 0: set()}
    order, most = order_of(needs, limit)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert all(order.index(other) < order.index(key) for key, others in needs.items() for other in others)
    assert most <= limit


def test_nothing_begins_after_a_failure():
    done = []

    def work(key):
        if key == 0:
            raise ValueError("first")
        done.append(key)

    canceled = []
    schedule = Schedule(lambda event: None, lambda: canceled.append(True), limit=1)
    with pytest.raises(ValueError, match="first"):
        schedule.run({0: (), 1: (), 2: {0}}, work)
    assert (done, canceled) == ([], [True])


def test_an_interrupt_that_swallows_a_message_hangs_nothing(monkeypatch):
    """Ctrl-C may come when a message was taken out and not looked at yet."""
    schedule = Schedule(lambda event: None, lambda: None, limit=2)

    class Swallowing(type(schedule._inbox)):
        def get(self, timeout=None):
            super().get(timeout=timeout)
            raise KeyboardInterrupt

    schedule._inbox = Swallowing()
    with pytest.raises(KeyboardInterrupt):
        schedule.run({0: (), 1: ()}, lambda key: schedule.tell(BuildEvent("output", str(key))))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("capsule-stage")] == []


def test_what_does_not_end_is_left_behind(monkeypatch):
    monkeypatch.setattr("pytest_capsule.build.schedule._GRACE", 0.1)
    stuck, told = threading.Event(), []

    def work(key):
        if key == 0:
            raise ValueError("first")
        stuck.wait(60)
        schedule.tell(BuildEvent("output", "late"))
        told.append(key)

    schedule = Schedule(lambda event: told.append(event), lambda: None, limit=2)
    with pytest.raises(ValueError, match="first"):
        schedule.run({0: (), 1: ()}, work)
    assert told == []
    stuck.set()
    (left,) = [thread for thread in threading.enumerate() if thread.name == "capsule-stage-1"]
    left.join(60)
    assert told == [1], "it goes on by itself, and is heard no more"
