"""What a failing test's report says, and what the options do."""

import os


def test_a_failing_test_shows_its_containers_logs_and_exit_code(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", name="web", command="echo to stdout; echo to stderr >&2; exit 3")
        def test_it(container):
            container.wait(5)
            assert False
        """
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*- container web -*", "image capsule/host, exited with code 3", "to stdout", "to stderr"]
    )


def test_only_the_last_lines_of_a_long_log_are_shown(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", command="seq 1000")
        def test_it(container):
            container.wait(5)
            assert False
        """
    )

    result.stdout.fnmatch_lines(["image capsule/host, exited with code 0, the last 50 of 1000 lines", "951", "1000"])
    assert "\n950\n" not in result.stdout.str()


def test_containers_of_factories_are_shown_too(suite, pytester):
    pytester.makeconftest(
        """
        from pytest_capsule import container_fixture

        db = container_fixture("capsule/host", name="db", command="echo I am the database; sleep 1000", scope="session")
        """
    )

    result = suite(
        """
        from pytest_capsule import wait

        def test_it(db):
            wait.until(db, wait.log("database"), 5)
            assert False
        """
    )

    result.stdout.fnmatch_lines(["*- container db -*", "image capsule/host, running", "I am the database"])


def test_a_passing_test_shows_nothing(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("hello-world")
        def test_it(container):
            container.wait(5)
        """,
        "-rA",
    )

    assert "Hello from" not in result.stdout.str()


def test_a_container_that_dies_while_the_test_waits_for_it_says_so(suite):
    result = suite(
        """
        import pytest
        from pytest_capsule import wait

        @pytest.mark.container("capsule/host", command="echo no port for you; exit 9", wait=wait.port(80))
        def test_it(container):
            pass
        """
    )

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_suite.py:4: *9*", "*no port for you*"])
    assert "Traceback" not in result.stdout.str()
    assert result.stdout.lines.count("no port for you") == 1
    assert "last log lines" not in result.stdout.str(), "the section has them"


def test_a_built_image_is_called_as_the_marker_calls_it(suite, pytester):
    pytester.mkdir("app").joinpath("Dockerfile").write_text("FROM hello-world\n")
    code = """
        import pytest

        @pytest.mark.container(build="app", command=[])
        def test_it(container, capsule):
            assert container.image.id
            assert False
    """

    suite(code).stdout.fnmatch_lines(["image app, running, nothing logged"])


def test_check_prints_a_table_and_exits(pytester, cache):
    result = pytester.runpytest_inprocess("--capsule-check", f"--capsule-cache-dir={cache}")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*hello-world*"])
    assert "passed" not in result.stdout.str()


def test_the_cache_is_where_option_ini_or_environment_say(pytester, monkeypatch):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.container("hello-world")
        def test_it(container):
            pass
        """
    )
    monkeypatch.setenv("CAPSULE_CACHE_DIR", str(pytester.path / "environment"))

    def used(*options):
        pytester.runpytest_inprocess(*options).assert_outcomes(passed=1)
        found = {name for name in os.listdir(pytester.path) if name in ("environment", "ini", "option")}
        for name in found:
            os.rename(pytester.path / name, pytester.path / f"was-{name}")
        return found

    assert used() == {"environment"}
    pytester.makeini("[pytest]\ncapsule_cache_dir = ini\n")
    assert used() == {"ini"}
    assert used("--capsule-cache-dir", "option") == {"option"}


def test_a_cache_that_cannot_be_written_is_one_clear_error(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.container("hello-world")
        def test_it(container):
            pass
        """
    )
    (pytester.path / "file").write_text("")

    result = pytester.runpytest_inprocess("--capsule-cache-dir", "file/below")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the image store *file/below* cannot be used: Not a directory*"])


def test_without_containers_no_process_is_started(pytester):
    pytester.makepyfile(
        """
        import os
        import sys

        def test_it():
            assert "pytest_capsule.engine" not in sys.modules or "PYTEST_XDIST_WORKER" in os.environ

        def test_children():
            import psutil
            assert psutil.Process().children() == []
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=2)
