"""Containers on several workers of pytest-xdist: every way to spread tests, and workers that die."""

import json

import pytest

SUITE = """
    import os
    from pathlib import Path
    import pytest
    from pytest_capsule import container_fixture

    server = container_fixture(build="app", command=["sleep", "1000"], scope="session")

    def note(kind, name, text=""):
        path = Path(__file__).with_name(kind) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @pytest.mark.xdist_group("together")
    @pytest.mark.parametrize("turn", range(3))
    class TestOne:
        @pytest.mark.container(build="app", command=["sleep", "1000"])
        def test_own(self, container, turn):
            assert container.diff() == []
            container.write_text("/mine", "")
            note("builds", container.read_text("/once").strip())

    @pytest.mark.parametrize("turn", range(3))
    def test_of_the_session(server, turn):
        note("builds", server.read_text("/once").strip())
        note("servers", server.id, os.environ.get("PYTEST_XDIST_WORKER", "alone"))
"""
CRASHING = """
    import ctypes, os, signal, time
    from pathlib import Path
    import psutil
    import pytest

    def note(container):
        Path(__file__).with_name(f"{container.name}.pid").write_text(str(container.pid))

    @pytest.mark.container("capsule/host", name="first", command=["sleep", "1000"])
    def test_killed(container):
        note(container)
        os.kill(os.getpid(), signal.SIGKILL)

    @pytest.mark.container("capsule/host", name="second", command=["sleep", "1000"])
    def test_segfault(container):
        note(container)
        ctypes.string_at(0)

    @pytest.mark.container("capsule/host", name="third", command=["echo", "last words"])
    def test_failing(container):
        container.wait(60)
        assert False

    @pytest.mark.container("capsule/host", command=[])
    def test_passing(container):
        pids = [int(path.read_text()) for path in Path(__file__).parent.glob("*.pid")]
        assert pids
        end = time.monotonic() + 60
        while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
            time.sleep(0.01)
        assert not any(map(psutil.pid_exists, pids))
"""


@pytest.fixture
def app(pytester):
    pytester.mkdir("app").joinpath("Dockerfile").write_text(
        f"FROM capsule/host\nENV unique={pytester.path}\nRUN cat /proc/sys/kernel/random/uuid > /once\n"
    )


# Which worker gets which test is xdist's matter, whoever runs them.
@pytest.mark.parametrize(
    "options",
    [
        "-n0",
        "-n2 --dist=load",
        *(
            pytest.param(f"-n2 --dist={way}", marks=pytest.mark.identities("root"))
            for way in ("loadscope", "loadgroup", "worksteal")
        ),
    ],
)
def test_however_tests_are_spread_an_image_is_built_once(run, app, pytester, options):
    result = run(SUITE, *options.split(), "--capsule-report=report.json")

    result.assert_outcomes(passed=6)
    assert len(list((pytester.path / "builds").iterdir())) == 1
    workers = [path.read_text() for path in (pytester.path / "servers").iterdir()]
    assert len(workers) == len(set(workers)), "a worker has started its server twice"
    result.stdout.fnmatch_lines([f"capsule: {3 + len(workers)} containers started in * s; 1 image: 1 built *"])
    assert len(json.loads((pytester.path / "report.json").read_text())["tests"]) == 6


def test_a_run_that_stops_early_leaves_nothing_and_shows_the_container_of_what_failed(run, app):
    result = run(SUITE.replace("assert container.diff() == []", "assert turn is None"), "-n2", "--maxfail=1")  # or -x

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["*- container * -*", "image *, running, nothing logged", "*stopping after 1 failures*"]
    )


def test_a_worker_that_dies_takes_its_containers_along_and_another_goes_on(run, pytester):
    result = run(CRASHING, "-n1")

    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["worker 'gw0' crashed while running 'test_suite.py::test_killed'"])
    result.stdout.fnmatch_lines(["worker 'gw1' crashed while running 'test_suite.py::test_segfault'"])
    result.stdout.fnmatch_lines(["*- container third -*", "image capsule/host, exited with code 0", "last words"])
