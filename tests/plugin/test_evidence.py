"""What the report of a failing test says of its containers, and what stays of them."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from terminals import Terminal

FAILING = """
    import pytest

    @pytest.mark.container("capsule/host", name="web", command=["sleep", "1000"])
    def test_it(container):
        container.write_text("/srv/note", "look at me")
        assert False
"""


def test_a_failure_shows_processes_ports_and_changed_files(suite):
    result = suite(
        """
        import pytest
        from pytest_capsule import wait

        @pytest.mark.container("capsule/host", name="web", command=["python3", "-m", "http.server", "8000"],
                               wait=wait.port(8000))
        def test_it(container):
            container.write_text("/srv/note", "")
            assert False
        """
    )

    result.stdout.fnmatch_lines(
        [
            "*- container web -*",
            "image capsule/host, running, waited *.* s for port 8000*",
            "*- container web: processes -*",
            "PID *COMMAND",
            "*python3 -m http.server 8000",
            "*- container web: listening ports -*",
            "tcp 0.0.0.0:8000",
            "*- container web: changed files -*",
            "A /srv/note",
        ]
    )
    result.stdout.no_fnmatch_line("udp *")


def test_each_process_has_its_own_line(suite):
    result = suite(
        """
        import pytest
        from pytest_capsule import wait

        @pytest.mark.container("capsule/host", name="web", command="sleep 1001 & sleep 1002 & echo on; wait",
                               wait=wait.log("on"))
        def test_it(container):
            def became_sleep(container):  # a shell that has forked has not yet
                return {"1001", "1002"} <= {one["command"][-1] for one in container.top() if one["command"]}

            wait.until(container, became_sleep, 60)
            assert False
        """
    )

    shown = result.stdout.str()
    _, _, table = shown.partition("container web: processes")
    rows = table.partition("PID")[2].splitlines()[1:4]
    assert len({row.split()[0] for row in rows}) == 3
    assert sorted(row.split()[-1] for row in rows) == ["1001", "1002", "wait"]


@pytest.mark.parametrize("style", ["auto", "long", "short", "native"])
def test_the_traceback_of_our_errors_ends_at_the_line_of_the_test(suite, pytester, style):
    pytester.mkdir("app").joinpath("Dockerfile").write_text("FROM capsule/host\nRUN exit 9\n")
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", command=[])
        @pytest.mark.parametrize("what", ["exec", "open", "image", "build"])
        def test_it(container, capsule, what):
            if what == "exec":
                container.exec("echo said; echo why >&2; exit 3", check=True)
            if what == "open":
                container.read_text("/none")
            if what == "image":
                capsule.run("no-such-image:1")
            if what == "build":
                capsule.build("app")
        """,
        f"--tb={style}",
        "--capsule-pull=never",
    )

    result.assert_outcomes(failed=4)
    shown = result.stdout.str()
    assert "ended with exit code 3" in shown
    assert "No such file or directory: '/none'" in shown
    assert "no image 'no-such-image:1'" in shown
    assert "RUN exit 9" in shown
    assert not re.search(r"pytest_capsule/\w|contextlib", shown)


def test_what_a_container_prints_drives_no_terminal(suite):
    result = suite(
        r"""
        import pytest

        @pytest.mark.container("capsule/host", name="web", command=[
            "sh", "-c", r"touch $(printf '/srv/\033[2Jfile'); printf '\033]0;title\007\033[31mred\033[0m\033[2J\n';"
                        r"head -c 500 /dev/zero; echo"
        ])
        def test_it(container):
            assert container.wait(60) == 1
        """
    )

    shown = result.stdout.str()
    assert "\x1b[31mred\x1b[0m" in shown, "colours stay"
    assert " ]0;title" in shown
    assert not re.search(" {100}", shown), "nor does it fill one with nothing"
    assert "A /srv/ [2Jfile" in shown
    assert not re.search("\x1b[^[]|\x1b\\[[0-9;]*[^0-9;m]|\x07", shown)


def test_a_main_process_that_a_signal_has_ended_is_said_so(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", name="web", command="kill -SEGV $$")
        def test_it(container):
            assert container.wait(10) == 0
        """
    )

    result.stdout.fnmatch_lines(["image capsule/host, killed by SIGSEGV (exit code 139), nothing logged"])


def test_the_health_of_a_container_and_its_history_are_shown(suite, pytester):
    (pytester.path / "Dockerfile").write_text(
        "FROM capsule/host\nHEALTHCHECK --interval=0.1s --retries=1 CMD echo so ill; exit 3\nCMD exec sleep 1000\n"
    )
    result = suite(
        """
        import time
        import pytest

        @pytest.mark.container(build=".", name="web")
        def test_it(container):
            end = time.monotonic() + 30
            while container.health() != "unhealthy" and time.monotonic() < end:
                time.sleep(0.01)
            assert False
        """
    )

    result.stdout.fnmatch_lines(["image *, running (unhealthy), nothing logged"])
    result.stdout.fnmatch_lines(["*- container web: health -*", "exit code 3: so ill"])


def test_a_container_that_did_not_get_ready_is_shown_as_it_stands(suite):
    result = suite(
        """
        import pytest
        from pytest_capsule import wait

        @pytest.mark.container("capsule/host", name="web", command=["sleep", "1000"], wait=wait.port(80), timeout=0.1)
        def test_it(container):
            pass

        def test_then(capsule):
            assert capsule._open == {}
        """
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*was not ready within 0.1 s*", "*- container web: processes -*", "*sleep 1000"])


@pytest.mark.parametrize("asking", ["broken", "broken, container", "container, broken"])
def test_a_fixture_that_fails_after_its_container_shows_it(suite, asking):
    result = suite(
        f"""
        import pytest

        @pytest.fixture
        def broken(container):
            container.wait(60)
            raise RuntimeError("no seed")

        @pytest.mark.container("capsule/host", name="web", command=["echo", "last words"])
        def test_it({asking}):
            pass

        def test_then(capsule):
            assert {{one.status for one in capsule._open.values()}} <= {{"removed"}}
        """
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: no seed", "*- container web -*", "*exited with code 0", "last words"])


def test_a_fixture_that_fails_before_its_container_starts_none(suite):
    result = suite(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def broken(request):
            if request.node.name == "test_it":
                raise RuntimeError("too early")

        @pytest.mark.container("capsule/host", command=[])
        def test_it(container):
            pass

        def test_then(capsule):
            assert {one.status for one in capsule._open.values()} <= {"removed"}
        """
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.no_fnmatch_line("capsule: *")


def run_printed(command, cache, script):
    """Run the command that a report shows, as its reader would, with ``script`` for the shell that it opens."""
    typed = command.replace("run -it ", "run -i ")  # there is no terminal here
    said = subprocess.run(["sh", "-c", typed], input=script, capture_output=True, text=True, check=False)
    return said.stdout


@pytest.mark.parametrize(
    ("option", "body", "kept", "activated"),
    [
        ("failed", "assert False", True, True),
        ("failed", "pass", False, True),
        ("always", "pass", True, False),
        ("never", "assert False", False, True),
    ],
)
def test_what_a_test_wrote_is_kept_and_can_be_opened(suite, cache, option, body, kept, activated, monkeypatch):
    """The command is found whether or not the environment that pytest runs in is activated."""
    programs = os.path.dirname(sys.executable)
    others = [one for one in os.environ["PATH"].split(":") if one != programs]
    monkeypatch.setenv("PATH", ":".join([programs, *others] if activated else others))

    result = suite(FAILING.replace("assert False", body), f"--capsule-keep={option}")

    commands = re.findall(r"^ *(\S*capsule .*run -it .*)$", result.stdout.str(), flags=re.MULTILINE)
    assert bool(commands) == kept
    if kept:
        assert "capsule-kept/test-suite-py-test-it" in commands[0]
        assert run_printed(commands[0], cache, "cat /srv/note") == "look at me"


def test_several_containers_are_kept_under_their_names(suite, pytester):
    suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", name="a", command=[])
        @pytest.mark.container("capsule/host", name="b", command=[])
        def test_two(containers):
            assert False

        def test_kept(capsule):
            names = {tag for image in capsule.images() for tag in image.tags}
            assert {f"capsule-kept/test-suite-py-test-two-{name}:latest" for name in "ab"} <= names
        """,
        "--capsule-keep=failed",
    ).assert_outcomes(failed=1, passed=1)


def test_junit_has_properties_of_containers(suite, pytester):
    suite(FAILING, "--junitxml=out.xml", "--capsule-keep=failed")

    found = {
        one.get("name"): one.get("value")
        for one in ElementTree.parse(pytester.path / "out.xml").getroot().iter("property")
    }
    assert found["container.web.image"] == "capsule/host"
    assert float(found["container.web.start_seconds"]) > 0
    assert "capsule-kept/" in found["container.web.kept"]


def test_no_report_reads_an_image_through_to_know_its_id(suite, pytester, tmp_path, monkeypatch):
    def identify(packing, image):
        raise AssertionError("an id was asked for")

    monkeypatch.setattr("pytest_capsule.store.packing.Packing.identify", identify)
    (tmp_path / "note").touch()
    result = suite(
        f"""
        import pytest

        @pytest.mark.container("rootfs:{tmp_path}", name="web", command=[])
        @pytest.mark.parametrize("failing", [False, True])
        def test_it(container, failing):
            assert not failing
        """,
        "--junitxml=out.xml",
    )

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"image rootfs:{tmp_path}, running, nothing logged"])


@pytest.fixture
def terminal():
    one = Terminal({**os.environ, "TERM": "xterm"})
    yield one
    one.close()


def test_a_shell_opens_in_the_container_of_a_failing_test(terminal, pytester, cache):
    pytester.makepyfile(test_suite=FAILING)

    terminal.start("--capsule-shell", f"--capsule-cache-dir={cache}", module="pytest", folder=pytester.path)
    terminal.expect("capsule shell in container web")
    terminal.type("cat /srv/note; echo; tty\n")
    terminal.expect("look at me")
    terminal.expect("/dev/pts/0")
    terminal.type("sleep 1000 &\n")
    terminal.type("exit\n")
    terminal.expect("pytest goes on")
    terminal.expect("1 failed")
    assert terminal.exit_code() == 1


def test_a_shell_opens_where_a_container_did_not_get_ready(terminal, pytester, cache):
    pytester.makepyfile(
        test_suite="""
        import pytest
        from pytest_capsule import wait

        @pytest.mark.container("capsule/host", name="web", command=["sleep", "9"], wait=wait.file("/no"), timeout=0.1)
        def test_it(container):
            pass
        """
    )

    terminal.start("--capsule-shell", f"--capsule-cache-dir={cache}", module="pytest", folder=pytester.path)
    terminal.expect("capsule shell in container web")
    terminal.type("echo in; hostname; exit\n")
    terminal.expect("1 error")
    assert terminal.exit_code() == 1


def test_with_pdb_the_container_is_alive(terminal, pytester, cache):
    pytester.makepyfile(test_suite=FAILING)

    terminal.start("--pdb", f"--capsule-cache-dir={cache}", module="pytest", folder=pytester.path)
    terminal.expect("[(]Pdb[)]")
    terminal.type("container.read_text('/srv/note')\n")
    terminal.expect("'look at me'")
    terminal.type("quit\n")
    terminal.expect("1 failed")
    assert terminal.exit_code() == 2


def test_without_a_terminal_there_is_no_shell(suite):
    result = suite(FAILING, "--capsule-shell")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["--capsule-shell: there is no terminal to open a shell on"])


def test_workers_have_no_terminal_for_a_shell(pytester):
    result = pytester.runpytest_inprocess("--capsule-shell", "-n1")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --capsule-shell: workers have no terminal; *"])
