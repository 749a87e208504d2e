"""Other plugins beside ours, each with a run of its own that loads nothing but the two, and no warning."""

import json
import os
import sys
from pathlib import Path

import pytest

COMPANIONS = Path(sys.prefix) / "companions"


@pytest.fixture
def beside(run, monkeypatch):
    """``beside("pytest_timeout", "test code", "-v")``."""
    if not COMPANIONS.exists():
        missing = f"there are no other plugins in {COMPANIONS}; make lint installs them"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    monkeypatch.setenv("PYTHONPATH", str(COMPANIONS))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_beside(plugin, code, *options):
        return run(code, "-p", "pytest_capsule.plugin", *(["-p", plugin] if plugin else []), *options)

    return run_beside


def test_randomly_changes_the_order_and_no_container_is_met_again(beside, pytester):
    result = beside(
        "pytest_randomly",
        """
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("turn", range(8))
        @pytest.mark.container("capsule/host", command=[])
        def test_it(container, turn):
            assert container.diff() == []
            container.write_text("/mine", "")
            with Path(__file__).with_name("seen").open("a") as file:
                print(turn, container.id, container.name, file=file)
        """,
        "--randomly-seed=1",
    )

    result.assert_outcomes(passed=8)
    turns, ids, names = zip(*map(str.split, (pytester.path / "seen").read_text().splitlines()), strict=True)
    assert sorted(turns) != list(turns)
    assert len(set(ids)) == len(set(names)) == 8


def test_timeout_shows_the_container_of_a_test_that_hangs(beside):
    result = beside(
        "pytest_timeout",
        """
        import signal, time
        import pytest
        from pytest_capsule import wait

        pytestmark = pytest.mark.timeout(600, method="signal")

        def let_time_be_over():
            signal.setitimer(signal.ITIMER_REAL, 0.1)

        @pytest.mark.container("capsule/host", name="web", command="echo waiting; sleep 900", wait=wait.log("wait"))
        def test_hangs(container):
            let_time_be_over()
            container.wait(500)

        @pytest.fixture
        def stuck(container):
            yield
            let_time_be_over()
            time.sleep(300)

        @pytest.mark.container("capsule/host", command=["sleep", "1000"])
        def test_hangs_in_teardown(stuck):
            pass

        @pytest.mark.container("capsule/host", command=[])
        def test_after(container, capsule):
            assert container.diff() == []
            assert [one.name for one in capsule._open.values() if one.status == "running"] == [container.name]
        """,
    )

    result.assert_outcomes(failed=1, passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*Timeout*600.0s*", "*- container web -*", "image capsule/host, running, *", "waiting"]
    )
    result.stdout.fnmatch_lines(["ERROR test_suite.py::test_hangs_in_teardown - *Timeout*"])


def test_timeout_that_ends_the_process_leaves_nothing(beside):
    result = beside(
        "pytest_timeout",
        """
        import pytest

        @pytest.mark.timeout(1, func_only=True, method="thread")
        @pytest.mark.container("capsule/host", command="sleep 1001 & exec sleep 1002")
        def test_hangs(container):
            container.wait(600)
        """,
    )

    assert result.ret == 1
    assert "+ Timeout +" in result.stdout.str() + result.stderr.str()


def test_rerunfailures_gives_each_attempt_a_fresh_container(beside, pytester):
    result = beside(
        "pytest_rerunfailures",
        """
        from pathlib import Path
        import pytest

        @pytest.fixture
        def seeded(container):
            assert container.diff() == []
            container.write_text("/seed", "")
            return container

        @pytest.mark.container("capsule/host", name="web", command=[])
        def test_flaky(seeded):
            attempts = Path(__file__).with_name("attempts")
            with attempts.open("a") as file:
                print(seeded.id, file=file)
            assert len(attempts.read_text().split()) == 3

        @pytest.mark.container("capsule/host", command=[])
        def test_after(container):
            assert container.diff() == []
        """,
        "--reruns=2",
        "--capsule-report=report.json",
    )

    assert result.parseoutcomes() == {"passed": 2, "rerun": 2}
    assert len(set((pytester.path / "attempts").read_text().split())) == 3
    result.stdout.fnmatch_lines(["capsule: 4 containers started *"])
    tests = json.loads((pytester.path / "report.json").read_text())["tests"]
    assert [test["outcome"] for test in tests] == ["rerun", "rerun", "passed", "passed"]


def test_asyncio_awaits_containers_in_tests_and_fixtures(beside):
    beside(
        "pytest_asyncio.plugin",
        """
        import asyncio
        import pytest, pytest_asyncio
        from pytest_capsule import wait

        @pytest_asyncio.fixture
        async def seeded(container):
            await container.aexec("echo seed > /seed", check=True)
            yield container
            assert (await container.aexec("cat /seed")).stdout == "changed\\n"

        @pytest.mark.asyncio
        @pytest.mark.container("capsule/host", command="sleep 0.1; touch /ready; exec sleep 1000")
        async def test_it(seeded):
            await wait.auntil(seeded, wait.file("/ready"), timeout=60)
            await asyncio.gather(*(seeded.aexec("echo changed > /seed", check=True) for _ in range(3)))
        """,
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    ).assert_outcomes(passed=1)


def test_subtests_share_the_container_and_one_that_fails_shows_it(beside, pytester):
    result = beside(
        None,
        """
        import pytest
        from pytest_capsule import wait

        @pytest.mark.container("capsule/host", name="web", command="echo up; exec sleep 1000", wait=wait.log("up"))
        def test_it(container, subtests):
            for turn in range(3):
                with subtests.test(turn=turn):
                    container.write_text(f"/turn{turn}", "")
                    assert turn != 1
            assert len(container.diff()) == 3
        """,
        "--capsule-report=report.json",
        "--junitxml=out.xml",
    )

    result.stdout.fnmatch_lines(["*- container web -*", "image capsule/host, running, *", "up"])
    result.stdout.fnmatch_lines(["capsule: 1 container started *"])
    tests = json.loads((pytester.path / "report.json").read_text())["tests"]
    assert [test.get("subtest") for test in tests] == ["turn=0", "turn=1", "turn=2", None]
    assert ["log" in test["containers"][0] for test in tests] == [False, True, False, False]
    assert (pytester.path / "out.xml").read_text().count('"container.web.image"') == 1
