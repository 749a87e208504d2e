"""However a run is interrupted, nothing is left behind, and its end says what happened."""

import json
import signal

import pytest

SUITE = """
    import os, signal, time
    import pytest

    def interrupt(number):
        if "PYTEST_XDIST_WORKER" in os.environ:
            os.kill(os.getppid(), number)
        else:
            os.kill(os.getpid(), number)
            time.sleep(300)  # until it arrives

    @pytest.fixture
    def seeded(container):
        container.write_text("/seed", "")
        yield container
        AFTER

    @pytest.mark.container("capsule/host", name="web", command="sleep 1001 & exec sleep 1002")
    def test_it(seeded):
        NOW

    def test_never_reached():
        pass
"""
CTRL_C = f"interrupt({int(signal.SIGINT)})"
SIGTERM = f"interrupt({int(signal.SIGTERM)})"


def suite_of(now, after="pass"):
    return SUITE.replace("NOW", now).replace("AFTER", after)


@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("now", "said"),
    [(CTRL_C, "!*! KeyboardInterrupt !*!"), (SIGTERM, "!*! KeyboardInterrupt: SIGTERM !*!")],
    ids=["ctrl-c", "sigterm"],
)
def test_a_signal_ends_a_run_in_order(run, pytester, now, said, options):
    result = run(suite_of(now), "--capsule-report=report.json", *options)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([said])
    assert json.loads((pytester.path / "report.json").read_text())["exit_code"] == result.ret
    if not options:  # a worker's report may come too late
        result.stdout.fnmatch_lines(["capsule: 1 container started in *"])


@pytest.mark.parametrize(
    "after", [CTRL_C, SIGTERM, "raise RuntimeError('lost')"], ids=["ctrl-c", "sigterm", "teardown"]
)
def test_a_second_trouble_after_ctrl_c(run, pytester, after):
    result = run(suite_of(CTRL_C, after), "--capsule-report=report.json")

    assert result.ret != 0
    result.stdout.fnmatch_lines(["!*! KeyboardInterrupt !*!"])
    assert json.loads((pytester.path / "report.json").read_text())["exit_code"] == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(("seconds", "orderly"), [(1000.0, True), (-1.0, False)], ids=["with-the-first", "later"])
def test_a_second_sigterm(pytester, monkeypatch, seconds, orderly):
    """One that timeout(1) sends along with the first is no second word; that comes later, and ends it at once."""
    pytester.makeconftest(f"import pytest_capsule.termination as t\nt._ONE_ORDER = {seconds}")
    pytester.makepyfile(suite_of(SIGTERM, "os.kill(os.getpid(), signal.SIGTERM)"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    assert result.ret == (pytest.ExitCode.INTERRUPTED if orderly else -signal.SIGTERM)
    assert ("KeyboardInterrupt: SIGTERM" in result.stdout.str()) == orderly


def test_pytest_exit_with_a_code_of_its_own(run, pytester):
    result = run(suite_of("pytest.exit('enough', returncode=7)"), "--capsule-report=report.json")

    assert result.ret == 7
    result.stdout.fnmatch_lines(["!*! _pytest.outcomes.Exit: enough !*!"])
    assert json.loads((pytester.path / "report.json").read_text())["exit_code"] == result.ret
