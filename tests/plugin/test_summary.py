"""The end of a run: one line, what was slow, and a report for machines."""

import json

import pytest

SUITE = """
    import pytest

    @pytest.mark.parametrize("turn", range(3))
    @pytest.mark.container(build="app", name="web", command=[])
    def test_app(container, turn):
        assert turn < 2

    @pytest.mark.container("hello-world", name="hello")
    def test_hello(container):
        container.wait(10)
"""


@pytest.fixture
def app(pytester):
    pytester.mkdir("app").joinpath("Dockerfile").write_text(
        f"FROM capsule/host\nENV unique={pytester.path}\nRUN sleep 0.3\n"
    )


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "workers"])
def test_one_line_says_what_was_done_and_saved(suite, app, options):
    built, cached = suite(SUITE, *options), suite(SUITE, *options)

    built.stdout.fnmatch_lines(["capsule: 4 containers started in *.* s; 1 image: 1 built in *.* s, 0 from the cache"])
    cached.stdout.fnmatch_lines(
        ["capsule: 4 containers started in * s; 1 image: 0 built, 1 from the cache, which saved *.* s"]
    )


def test_a_run_without_containers_says_nothing(suite):
    assert "capsule:" not in suite("def test_it(): pass").stdout.str()


def test_the_slowest_builds_and_starts_are_listed(suite, app):
    result = suite(SUITE, "--capsule-durations=2")

    lines = result.stdout.lines
    title = next(number for number, line in enumerate(lines) if "slowest 2 builds and starts" in line)
    assert lines[title + 1].endswith("s build    app")
    assert "s setup    test_suite.py::test_" in lines[title + 2]
    assert lines[title + 3].startswith("capsule: ")


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "workers"])
def test_the_json_report_has_every_test_and_all_there_is_to_know_of_a_failing_one(suite, app, pytester, options):
    suite(SUITE, "--capsule-report=deep/report.json", *options)

    report = json.loads((pytester.path / "deep" / "report.json").read_text())
    tests = {test["nodeid"].rpartition("::")[2]: test for test in report["tests"]}
    assert set(tests) == {"test_app[0]", "test_app[1]", "test_app[2]", "test_hello"}
    assert [image["image"] for image in report["images"]] == ["app"]
    failed, passed = tests["test_app[2]"], tests["test_hello"]
    assert (failed["outcome"], failed["containers"][0]["name"]) == ("failed", "web")
    assert {"log", "processes", "ports", "changes"} <= failed["containers"][0].keys()
    assert passed["containers"][0]["exit_code"] == 0
    assert passed["containers"][0]["image"] == "hello-world"


def test_a_report_that_cannot_be_written_is_said_and_changes_nothing_else(suite, pytester):
    (pytester.path / "file").write_text("")

    result = suite("def test_it(): pass", "--capsule-report=file/report.json")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["ERROR: --capsule-report: */file/report.json: *"])
