"""A container that all workers of a run share: ``container_fixture(shared=True)``."""

import contextlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from test_gone import until

CONFTEST = """
    from pytest_capsule import container_fixture, wait

    PROGRAM = "echo up; while read line; do echo got $line; done < /fifo; exec sleep 1006"
    COMMAND = f"mkfifo /fifo; {PROGRAM}"
    db = container_fixture("capsule/host", name="db", command=COMMAND, wait=wait.log("up"), shared=True)
"""


def test_workers_use_one_container_that_outlives_a_worker(suite, pytester):
    pytester.makeconftest(CONFTEST)

    result = suite(
        """
        import os
        import pytest

        @pytest.mark.parametrize("turn", range(8))
        def test_it(db, turn, worker_id, pytestconfig):
            (pytestconfig.rootpath / f"{db.id} {db.pid}").touch()
            if turn == 3:
                os.kill(os.getpid(), 9)
            db.write_text(f"/srv/{turn}", worker_id)
            assert db.exec(["cat", f"/srv/{turn}"]).stdout == worker_id

        def test_after_a_worker_has_died(db):
            assert db.status == "running"
        """,
        "-n2",
    )

    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["*crashed while running*test_it?3?*"])
    result.stdout.fnmatch_lines(["capsule: 1 container started*"])
    (seen,) = (path.name for path in pytester.path.iterdir() if len(path.name) > 64)
    assert not psutil.pid_exists(int(seen.split()[1]))


def test_it_is_used_as_one_of_the_workers_own(suite, pytester):
    pytester.makeconftest(CONFTEST)

    suite(
        """
        import asyncio
        from urllib.request import urlopen

        import pytest
        from pytest_capsule import UsageError, wait

        def test_it(db, capsule, tmp_path):
            assert (db.status, db.exit_code, db.killed_by, db.killed_for, db.health()) == ("running", *[None] * 4)
            assert db.stats()["pids"] >= 1
            lines = db.logs(follow=True)
            assert next(lines) == "up\\n"
            with pytest.raises(TimeoutError):
                db.wait(timeout=0.01)
            with pytest.raises(UsageError, match="no such signal"):
                db.kill("SIGNONE")

            with db.popen(["python3", "-m", "http.server", "8000"]) as server:
                wait.until(db, wait.port(8000), 60)
                assert db.connect(8000).close() is None
                assert db.address(8000) == db.address(8000)
                assert urlopen(db.url(8000)).status == 200
                server.kill()

            (tmp_path / "in").write_text("x")
            db.copy_in(tmp_path / "in", "/srv/in")
            assert "A /srv/in" in map(str, db.diff())
            with capsule.run(db.commit(), command=["cat", "/srv/in"]) as other:
                assert other.wait(20) == 0
                assert other.logs() == "x"
            with pytest.raises(UsageError, match="the network of container db"):
                capsule.run("capsule/host", command=[], network="container:db")

            db.pause()
            assert db.status == "paused"
            db.unpause()
            db.write_text("/fifo", "word\\n")
            assert next(lines) == "got word\\n"

            async def awaited():
                assert (await db.aexec("echo yes")).stdout == "yes\\n"
                return await anext(db.alogs())

            async def anext(lines):
                async for line in lines:
                    await lines.aclose()
                    return line

            assert asyncio.run(awaited()) == "up\\n"
            db.kill()
            assert (db.wait(20), db.exit_code, db.killed_by, db.status) == (137, 137, "SIGKILL", "exited")
            with pytest.raises(UsageError, match="the main process of container db"):
                db.main
            assert list(lines) == []
            db.close()
            assert db.status == "removed"
        """,
        "-n1",
    ).assert_outcomes(passed=1)


def test_a_failing_test_of_a_worker_shows_how_it_ended(suite, pytester):
    pytester.makeconftest(CONFTEST)

    result = suite(
        """
        def test_it(db):
            db.kill("TERM")
            assert db.wait(20) == 0
        """,
        "-n1",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["image capsule/host, killed by SIGTERM (exit code 143)*", "up"])


def test_each_worker_is_told_why_it_does_not_start(suite, pytester):
    pytester.makeconftest(
        """
        from pytest_capsule import container_fixture, wait

        missing = container_fixture("capsule/host", command=["no-such-program"], shared=True)
        ended = container_fixture("capsule/host", command="echo last words; exit 3", wait=wait.port(80), shared=True)
        """
    )
    code = """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        def test_missing(missing, turn):
            pass

        @pytest.mark.parametrize("turn", [1, 2])
        def test_ended(ended, turn):
            pass
    """

    result = suite(code, "-n2", "--dist=each")

    result.assert_outcomes(errors=8)
    told = result.stdout.str()
    for words in ("conftest.py:3: 'no-such-program'", "exited with 3 while waiting for port 80"):
        assert told.count(words) >= 4, told
    assert "last words" in told


def test_with_one_process_it_is_the_sessions(suite, pytester):
    pytester.makeconftest(CONFTEST)

    suite(
        """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(db, turn):
            assert db.exists("/seen") == (turn == 2)
            db.write_text("/seen", "")
        """
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ("scope='module'", "conftest.py:4: container_fixture(shared=True, scope='module'): what is shared has"),
        ("stdin=threading.Lock()", "conftest.py:4: shared=True: cannot pickle"),
    ],
)
def test_what_cannot_be_shared_is_told(suite, pytester, keywords, message):
    pytester.makeconftest(
        f"""
        import threading
        from pytest_capsule import container_fixture

        db = container_fixture("capsule/host", {keywords}, shared=True)
        """
    )

    result = suite("def test_it(db): pass", "-n1")

    assert result.ret != 0
    assert message in result.stdout.str() + result.stderr.str()


def test_when_all_are_killed_it_is_gone(pytester, cache):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_suite="""
        import os
        import time

        def test_it(db, pytestconfig):
            (pytestconfig.rootpath / "seen.tmp").write_text(f"{db.pid} {db.init_pid}")
            (pytestconfig.rootpath / "seen.tmp").rename(pytestconfig.rootpath / "seen")
            time.sleep(60)
        """
    )
    command = [sys.executable, "-m", "pytest", "-n2", f"--capsule-cache-dir={cache}", "-p", "no:cacheprovider"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        seen = Path(pytester.path / "seen")
        assert until(seen.exists, 120), run.communicate(timeout=1)
        everything = psutil.Process(run.pid).children(recursive=True)
        assert set(map(int, seen.read_text().split())) <= {process.pid for process in everything}
        run.kill()
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has gone with the others
                if process.name().startswith("python"):
                    process.kill()
        run.communicate(timeout=60)

    assert until(lambda: not any(process.is_running() for process in everything), 60)
