"""Images that markers and factories name are made before the first test, in parallel, and seen to be."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

EVENTS = """
    from pathlib import Path

    def pytest_capsule_build_event(event):
        with Path(__file__).with_name("events").open("a") as file:
            print(event.kind, event.name, file=file)
"""
TWO = """
    import pytest

    def test_plain():
        pass

    @pytest.mark.container(build="one", command=[])
    def test_one(container):
        pass
"""


@pytest.fixture
def images(pytester):
    """``images(one="RUN true")`` makes folders with Dockerfiles whose steps no test has built before."""

    def make(**steps):
        for name, text in steps.items():
            folder = pytester.path / name
            folder.mkdir(exist_ok=True)
            (folder / "Dockerfile").write_text(f"FROM capsule/host\nENV unique={pytester.path}-{name}\n{text}\n")

    return make


@pytest.fixture
def spawn(pytester, cache):
    """A pytest of its own, with its output as one sees it."""

    def start(*options, **keywords):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--capsule-cache-dir={cache}", *options]
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        return subprocess.Popen(command, cwd=pytester.path, env=environment, **keywords)

    return start


def test_images_of_markers_and_factories_are_there_before_the_first_test(suite, pytester, images):
    images(one="RUN true", two="RUN true", three="RUN true")
    pytester.makeconftest(
        EVENTS
        + """
    from pytest_capsule import container_fixture, image_fixture

    two = image_fixture(build="two")
    three = container_fixture(build="three", command=[])
    """
    )
    result = suite(
        """
        import pytest

        def test_first(pytestconfig):
            assert (pytestconfig.rootpath / "events").read_text().count("done [2/2] RUN true") == 3

        @pytest.mark.container(build="one", command=[])
        def test_one(container):
            pass

        def test_others(two, three):
            pass

        def test_last(pytestconfig):
            assert (pytestconfig.rootpath / "events").read_text().count("done [2/2] RUN true") == 3
        """
    )

    result.assert_outcomes(passed=4)


def test_they_are_built_in_parallel(suite, images):
    name = f"capsule-test-{os.getpid()}-{time.time_ns()}"  # on the host's network, where RUN is
    images(
        one=f"""RUN python3 <<END
import socket
with socket.socket(socket.AF_UNIX) as server:
    server.bind("\\0{name}")
    server.listen()
    server.settimeout(60)
    server.accept()
END""",
        two=f"""RUN python3 <<END
import socket, time
with socket.socket(socket.AF_UNIX) as client:
    end = time.time() + 60
    while (refused := client.connect_ex("\\0{name}")) and time.time() < end:
        time.sleep(0.01)
assert not refused
END""",
    )

    suite(TWO + TWO.replace("one", "two")).assert_outcomes(passed=3)


@pytest.mark.parametrize("options", [["--collect-only"], ["--setup-plan"], ["-k", "plain"]], ids=" ".join)
def test_what_does_not_run_builds_nothing(suite, pytester, images, options):
    images(one="RUN true")
    pytester.makeconftest(EVENTS)

    assert suite(TWO, *options).ret == 0
    assert not (pytester.path / "events").exists()


@pytest.mark.parametrize("mark", ["skip", "skipif(True, reason='not here')"])
def test_what_is_skipped_builds_nothing(suite, pytester, images, mark):
    images(one="RUN true")
    pytester.makeconftest(EVENTS)

    suite(TWO.replace("@pytest.mark.container", f"@pytest.mark.{mark}\n    @pytest.mark.container")).assert_outcomes(
        passed=1, skipped=1
    )
    assert not (pytester.path / "events").exists()


def test_an_image_that_fails_fails_only_its_own_tests_and_is_not_tried_for_each(suite, pytester, images):
    images(one="RUN true", bad="RUN echo because of this; exit 7")
    pytester.makeconftest(EVENTS)

    result = suite(
        TWO
        + """
    @pytest.mark.parametrize("turn", range(3))
    @pytest.mark.container(build="bad", command=[])
    def test_bad(container, turn):
        pass
    """
    )

    result.assert_outcomes(passed=2, errors=3)
    result.stdout.fnmatch_lines(["capsule: bad failed after * s; the tests that need it say why"])
    result.stdout.fnmatch_lines(["*test_suite.py:*: the image cannot be built", "*because of this*"])
    assert (pytester.path / "events").read_text().count("failed [2/2] RUN echo") == 2  # ahead, and for the first test


def test_a_context_that_a_fixture_changes_counts_as_the_test_finds_it(suite, pytester, images):
    images(one="COPY file /file")
    (pytester.path / "one" / "file").write_text("stale")

    suite(
        """
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def generated(pytestconfig):
            (pytestconfig.rootpath / "one" / "file").write_text("fresh")

        @pytest.mark.container(build="one", command=[])
        def test_one(container):
            assert container.read_text("/file") == "fresh"
        """
    ).assert_outcomes(passed=1)


def test_no_cache_builds_each_image_anew_but_only_once(suite, pytester, images):
    images(one="RUN true")
    suite(TWO).assert_outcomes(passed=2)
    pytester.makeconftest(EVENTS)

    for options in ([], ["-n2"]):
        suite(TWO, "--capsule-no-cache", *options).assert_outcomes(passed=2)
        assert (pytester.path / "events").read_text().count("done [2/2] RUN true") == 1
        (pytester.path / "events").unlink()


def test_plain_lines_say_what_is_built_and_nothing_of_what_is_there(suite, images):
    images(one="RUN true\nRUN true")

    first, second = suite(TWO), suite(TWO)

    first.stdout.fnmatch_lines(["capsule: building one", "capsule: built one in * s: 2 steps, 1 from the cache"])
    assert "capsule: buil" not in second.stdout.str()


def test_quiet_shows_nothing_and_verbose_every_step(suite, images):
    images(one="RUN echo hello")

    assert "one" not in suite(TWO, "-q").stdout.str()
    result = suite(TWO, "-v", "--capsule-no-cache")
    result.stdout.fnmatch_lines(["one | #* [[]2/2] RUN echo hello", "one | #* hello", "one | #* DONE *s"])


def test_workers_tell_it_past_their_capture(spawn, pytester, images):
    images(one="RUN true")
    pytester.makepyfile(test_suite=TWO)

    with spawn("-n2", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        _, told = running.communicate(timeout=120)

    assert running.returncode == 0
    assert [line for line in told.splitlines() if line == "capsule: building one"] == ["capsule: building one"]


def test_a_terminal_shows_one_line_that_changes(spawn, pytester, images):
    images(one="RUN echo seen", other="RUN exit 3")
    pytester.makepyfile(test_suite=TWO + TWO.replace("one", "other"))
    ours, theirs = pty.openpty()

    with spawn(stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # EIO: the last one has closed it
                break
        os.close(ours)
    text = said.decode()

    assert running.returncode == 1
    assert re.search(r"\rcapsule: [01]/2 images, \d+ s: .*one \[2/2\] RUN echo seen", text)
    assert re.search(r"\r +\rcapsule: built one in [\d.]+ s: 1 step, 1 from the cache\r\n", text)
    assert "capsule: other failed after" in text


def test_ctrl_c_ends_the_builds(spawn, pytester, images):
    images(one="RUN touch /begun; sleep 1000")
    pytester.makepyfile(test_suite=TWO)

    with spawn(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        while (line := running.stdout.readline()) and line != "capsule: building one\n":
            pass
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=60)

    assert running.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in rest
