"""Several processes on one store: each step is done once, and whoever is killed leaves it as good as it was."""

import collections
import contextlib
import os
import random
import signal
import socketserver
import subprocess
import sys
import threading

import pytest

from pytest_capsule import Engine

# A builder that says what happened: one line an event, the image's id at the end.
BUILDER = """
import sys
from pytest_capsule import Engine

def tell(event):
    print(event.kind, event.step, event.text.strip(), flush=True)

with Engine(cache_dir=sys.argv[1]) as engine:
    tell_id = engine.build(sys.argv[2], progress=tell).id
    print("id", 0, tell_id, flush=True)
"""


def builder(cache, context):
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(cache), str(context)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def context(tmp_path):
    context = tmp_path / "context"
    context.mkdir()
    return context


@pytest.mark.parametrize("processes", [2, 8])
def test_builders_at_once_do_each_step_once(tmp_path, context, processes):
    """Each step writes a random number: had one been done twice, the images would not be the same."""
    (context / "file").write_text("f")
    (context / "Dockerfile").write_text(
        "FROM capsule/host\nRUN cat /proc/sys/kernel/random/uuid > /a\nCOPY file /file\n"
        "RUN cat /proc/sys/kernel/random/uuid > /b\nWORKDIR /w\n"
    )
    running = [builder(tmp_path / "cache", context) for _ in range(processes)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * processes, ended
    lines = [line.split() for out, _ in ended for line in out.splitlines()]
    assert sorted(step for kind, step, *_ in lines if kind == "start" and step != "0") == ["2", "3", "4", "5"]
    assert sum(kind == "done" and step != "0" for kind, step, *_ in lines) == 4
    assert len({words[0] for kind, _, *words in lines if kind == "id"}) == 1


GRAPH = """\
FROM capsule/host AS base
SHELL ["/bin/bash", "-c"]
FROM base AS a
RUN {count} a1; echo a > /a
RUN {count} a2; echo more >> /a
FROM base AS b
RUN {count} b1; echo b > /b
FROM base
COPY --from=a /a /
COPY --from=b /b /
COPY file /file
RUN {count} last; cat /a /b /file > /all
"""


@pytest.fixture
def counter():
    """A port on the host that counts the words sent to it: what a RUN really did."""
    words = collections.Counter()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            words[self.rfile.readline().decode().strip()] += 1

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words.send = f"exec 3>/dev/tcp/127.0.0.1/{server.server_address[1]}; echo >&3"
        yield words
        server.shutdown()


def test_builders_of_one_graph_at_once_run_each_command_once(tmp_path, context, counter):
    (context / "file").write_text("f\n")
    (context / "Dockerfile").write_text(GRAPH.format(count=counter.send))
    running = [builder(tmp_path / "cache", context) for _ in range(8)]
    ended = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 8, ended
    assert dict(counter) == {"a1": 1, "a2": 1, "b1": 1, "last": 1}
    assert len({out.splitlines()[-1] for out, _ in ended}) == 1


@pytest.mark.parametrize("seed", range(3))
def test_builders_that_are_killed_at_any_moment_leave_a_store_that_works(tmp_path, context, counter, seed):
    chance = random.Random(seed)
    (context / "file").write_text("f\n")
    (context / "Dockerfile").write_text(GRAPH.format(count=counter.send))
    for _ in range(4):
        process = builder(tmp_path / "cache", context)
        try:
            for _ in range(chance.randrange(12)):
                process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.random() / 10)
        finally:
            process.kill()
            process.communicate(timeout=60)
    with Engine(cache_dir=tmp_path / "cache") as engine:
        image = engine.build(context)
        with engine.run(image, command=[]) as container:
            assert container.read_text("/all") == "a\nmore\nb\nf\n"
        assert engine.verify().problems == ()
    assert [path.name for path in (tmp_path / "cache").glob("*/tmp/*")] == []


def test_a_builder_that_is_killed_leaves_a_store_that_works(tmp_path, context):
    cache = tmp_path / "cache"
    (context / "Dockerfile").write_text(
        "FROM capsule/host\nRUN echo first > /first\nRUN echo half > /half; echo started; sleep 600\n"
    )
    process = builder(cache, context)
    try:
        for line in process.stdout:
            if "started" in line:
                break
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    (root,) = [path for path in cache.iterdir() if path.is_dir()]
    assert list(root.glob("tmp/*/*/fs/half")), "it was in the middle of writing"

    (context / "Dockerfile").write_text(
        "FROM capsule/host\nRUN echo first > /first\nRUN test ! -e /half && echo clean\n"
    )
    events = []
    with Engine(cache_dir=cache) as engine:
        image = engine.build(context, progress=events.append)
        assert not list(root.glob("tmp/*/*/fs/half"))
        assert len(list(root.glob("tmp/*.lock"))) == 1, "only that of the engine that lives"
        with engine.run(image, command=[]) as container:
            assert container.read_text("/first") == "first\n"
    assert [event.kind for event in events if event.step == 2] == ["cached"]
    assert [event.kind for event in events if event.step == 3] == ["start", "output", "done"]
    assert list(root.glob("tmp/*")) == []


def test_an_engine_that_lives_is_not_collected(tmp_path, context):
    (context / "Dockerfile").write_text("FROM capsule/host\nRUN echo one > /one\n")
    with Engine(cache_dir=tmp_path / "cache") as first:
        with Engine(cache_dir=tmp_path / "cache") as second:
            second.build(context)
        with first.run(first.build(context), command=["cat", "/one"]) as container:
            assert container.wait(timeout=30) == 0
            assert container.logs() == "one\n"
