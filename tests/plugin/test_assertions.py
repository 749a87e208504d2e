"""What a failed assert shows of values that come out of containers."""

import pytest

from pytest_capsule import Change, ExecResult
from pytest_capsule.assertions import explain


def test_two_results_are_compared_field_by_field():
    left = ExecResult(3, "one\ntwo\n", "")
    right = ExecResult(0, "one\nthree\n", "")

    assert explain("==", left, right) == [
        "the results of two commands differ",
        "exit_code: 3 != 0",
        "stdout:",
        "  one",
        "- three",
        "+ two",
    ]


@pytest.mark.parametrize(("other", "field"), [(0, "exit_code"), ("out", "stdout")])
def test_a_result_is_no_number_and_no_text(other, field):
    lines = explain("==", ExecResult(1, "out\n", b"err".decode()), other)

    assert lines == [
        f"an ExecResult == {other!r}",
        f"compare one of its fields, such as .{field}:",
        "exit_code: 1",
        "stdout:",
        "  out",
        "stderr:",
        "  err",
    ]


def test_lists_of_changes_are_compared_as_sets():
    left = [Change("A", "/both"), Change("A", "/new")]
    right = [Change("A", "/both"), Change("D", "/old")]

    assert explain("==", left, right) == [
        "two lists of changed files differ",
        "only on the left:  A /new",
        "only on the right: D /old",
    ]
    assert explain("==", left, left[::-1]) == [
        "two lists of changed files have the same entries in another order or number"
    ]
    assert explain("==", left, []) == [
        "two lists of changed files differ",
        "only on the left:  A /both",
        "only on the left:  A /new",
    ]
    assert explain("==", [], []) is None
    assert explain("==", left, ["A /both"]) is None


def test_bytes_that_are_text_are_compared_by_lines():
    assert explain("==", b"a\nb", b"a\nc\n") == [
        "two files differ",
        "  a",
        "- c",
        "+ b  (no newline at the end)",
    ]
    assert explain("==", b"\xff\n", b"\n") is None
    assert explain("==", b"a", b"b") is None


@pytest.mark.parametrize(("operator", "left", "right"), [("!=", b"a\n", b"a\n"), ("==", [], []), ("==", "a", "b")])
def test_the_rest_is_left_to_pytest(operator, left, right):
    assert explain(operator, left, right) is None


def test_a_failing_test_shows_it(suite):
    result = suite(
        """
        import pytest
        from pytest_capsule import Change, ExecResult

        @pytest.mark.container("capsule/host", command=[])
        def test_it(container):
            container.write_text("/srv/new", "")
            assert container.diff() == [Change("C", "/srv")]

        @pytest.mark.container("capsule/host", command=[])
        def test_exec(container):
            assert container.exec("echo out; exit 4") == ExecResult(0, "", "")
        """
    )

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E *only on the left:  A /srv/new", "E *exit_code: 4 != 0", "E *+ out"])
