"""The end of a run: one line, what was slow, and a report for machines."""

import json
from pathlib import Path

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


SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "report.schema.json").read_text())
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}


def check(value, schema, place="$"):
    """Whether a value is as the schema says, in the words that ours uses; a property that it does not have is wrong."""
    if "$ref" in schema:
        return check(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], place)
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(value, TYPES[name]) for name in names), f"{place}: {value!r} is none of {names}"
    assert value in schema.get("enum", [value]), f"{place}: {value!r}"
    assert value == schema.get("const", value), f"{place}: {value!r}"
    if isinstance(value, dict):
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), f"{place}: {sorted(value)}"
        for name, one in value.items():
            check(one, schema["properties"][name], f"{place}.{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            check(one, schema["items"], f"{place}[{number}]")
    return None


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
    check(report, SCHEMA)
    assert report["exit_code"] == 1
    tests = {test["nodeid"].rpartition("::")[2]: test for test in report["tests"]}
    assert set(tests) == {"test_app[0]", "test_app[1]", "test_app[2]", "test_hello"}
    assert [image["image"] for image in report["images"]] == ["app"]
    failed, passed = tests["test_app[2]"], tests["test_hello"]
    assert (failed["outcome"], failed["containers"][0]["name"]) == ("failed", "web")
    assert {"log", "processes", "ports", "changes"} <= failed["containers"][0].keys()
    assert passed["containers"][0]["exit_code"] == 0
    assert passed["containers"][0]["image"] == "hello-world"


@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "workers"])
def test_an_image_that_cannot_be_built_is_told_with_its_failing_step(suite, pytester, options):
    pytester.mkdir("bad").joinpath("Dockerfile").write_text(
        "FROM capsule/host AS first\nRUN echo first\nFROM first\nRUN echo because; exit 7\nRUN echo never\n"
    )

    result = suite(
        """
        import pytest

        @pytest.mark.parametrize("turn", range(2))
        @pytest.mark.container(build="bad", command=[])
        def test_bad(container, turn):
            pass

        def test_own(capsule, pytestconfig):
            capsule.build(pytestconfig.rootpath / "bad")
        """,
        "--capsule-report=report.json",
        "--junitxml=junit.xml",
        *options,
    )

    result.assert_outcomes(errors=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- image bad: failing build step -*",
            "bad/Dockerfile:4: RUN echo because; exit 7: exit code 7",
            "*  0.00 s  [[]first 1/2[]] FROM capsule/host",
            "*s  [[]first 2/2[]] RUN echo first",
            "failed  *s  [[]stage-1 1/2[]] RUN echo because; exit 7",
            "*- image of the test: failing build step -*",
            "capsule: 0 containers started in 0.00 s; 1 image cannot be built",
        ]
    )
    report = json.loads((pytester.path / "report.json").read_text())
    check(report, SCHEMA)
    tests = report["tests"]
    assert [(test["nodeid"], test["outcome"], test["containers"]) for test in tests] == [
        (f"test_suite.py::{name}", "failed", []) for name in ("test_bad[0]", "test_bad[1]", "test_own")
    ]
    first, second, own = (test["failed_build"] for test in tests)
    assert first == second
    assert own == {**first, "image": None, "steps": []}
    assert (first["image"], first["path"], first["line"], first["exit_code"]) == ("bad", "bad/Dockerfile", 4, 7)
    assert (first["step"], first["output"]) == ("RUN echo because; exit 7", "because\n")
    assert [step["state"] for step in first["steps"]][-1] == "failed"
    assert (
        'name="image.bad.failing_step" value="bad/Dockerfile:4: RUN echo because; exit 7"'
        in (pytester.path / "junit.xml").read_text()
    )


def test_a_report_that_cannot_be_written_is_said_and_changes_nothing_else(suite, pytester):
    (pytester.path / "file").write_text("")

    result = suite("def test_it(): pass", "--capsule-report=file/report.json", "-q")

    assert result.ret == 0
    assert [line for line in result.stdout.lines if line.startswith("ERROR: --capsule-report: ")]
