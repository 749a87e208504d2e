from __future__ import annotations

from pathlib import Path

import pytest

from pytest_capsule.dockerfile import Heredoc, parse, parse_tree
from pytest_capsule.errors import DockerfileError

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_golden(path):
    assert parse_tree(path.read_bytes()).dump() + "\n" == path.with_suffix(".tree").read_text()


def only(text):
    (node,) = parse_tree(text).nodes
    return node


def refusal_of(source, reader=parse_tree):
    with pytest.raises(DockerfileError) as refusal:
        reader(source, path="its/Dockerfile")
    assert refusal.value.path == "its/Dockerfile"
    return refusal.value


def test_a_node_knows_its_place_and_its_text():
    tree = parse_tree("\n# about\n  run one \\\n  # aside\n\n  two\nUSER x\n")
    run, user = tree.nodes
    assert (run.origin.line, run.origin.end_line, run.origin.text) == (3, 6, "  run one \\")
    assert run.origin.source == "run one   two"
    assert (user.origin.line, user.origin.end_line) == (7, 7)
    assert [(warning.line, warning.message) for warning in tree.warnings] == [
        (6, "Empty continuation line found in: run one   two")
    ]


def test_comments_above_an_instruction_are_kept_up_to_an_empty_one():
    node = only("# syntax=docker/dockerfile:1\n# licence\n#\n# base is small\n\n# and old\nFROM a AS base")
    assert node.comments == ("base is small", "and old")


@pytest.mark.parametrize(
    ("top", "syntax", "escape", "check"),
    [
        ("", None, "\\", None),
        ("# syntax = docker/dockerfile:1 # x\n", "docker/dockerfile:1", "\\", None),
        ("#EsCape=`\n#check=skip=all;error=true\n", None, "`", "skip=all;error=true"),
        ("# a comment\n# escape=`\n", None, "\\", None),
        ("\n# escape=`\n", None, "\\", None),
        ("# unknown=x\n# escape=`\n", None, "\\", None),
        ("#!/usr/bin/env docker\n# syntax=x\n", "x", "\\", None),
        ("\ufeff# syntax=x\n", "x", "\\", None),
    ],
)
def test_directives(top, syntax, escape, check):
    dockerfile = parse(top + "FROM a")
    assert (dockerfile.syntax, dockerfile.escape, dockerfile.check) == (syntax, escape, check)


def test_bad_directives_name_their_line():
    assert refusal_of("# syntax=a\n# syntax=b\nFROM a").line == 2
    error = refusal_of("# escape=^\nFROM a")
    assert (error.line, error.text) == (1, "# escape=^")


def test_with_a_backtick_a_backslash_continues_nothing():
    tree = parse_tree("# escape=`\nCOPY a c:\\\nRUN x `\n  y")
    assert tree.dump() == '(copy "a" "c:\\\\")\n(run "x   y")'


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_it():
    assert parse_tree(b"\xef\xbb\xbfFROM a\r\nRUN b \\\r\n c\r\n").dump() == '(from "a")\n(run "b  c")'


def test_bytes_that_are_no_utf8_come_through():
    node = only(b"RUN echo \xff\xfe")
    assert node.arguments[0].encode("utf-8", "surrogateescape") == b"echo \xff\xfe"
    assert node.dump() == r'run "echo \xff\xfe"'


@pytest.mark.parametrize(
    ("mark", "end", "expected"),
    [
        ("<<EOF", "EOF", Heredoc("EOF", "\t$a\n")),
        ("<< EOF", "EOF", Heredoc("EOF", "\t$a\n")),
        ("3<<EOF", "EOF", Heredoc("EOF", "\t$a\n", fd=3)),
        ("<<-EOF", "\tEOF", Heredoc("EOF", "\t$a\n", chomp=True)),
        ("<<'EOF'", "EOF", Heredoc("EOF", "\t$a\n", expand=False)),
        ('<<E"O"F', "EOF", Heredoc("EOF", "\t$a\n", expand=False)),
        (r"<<E\'F", "E'F", Heredoc("E'F", "\t$a\n")),
        ("<<'two words'", "two words", Heredoc("two words", "\t$a\n", expand=False)),
        ("<<$EOF", "$EOF", Heredoc("$EOF", "\t$a\n")),
        ("<<file.txt", "file.txt", Heredoc("file.txt", "\t$a\n")),
        ("cat > ${x:0:3} <<EOF | tr a b", "EOF", Heredoc("EOF", "\t$a\n")),
    ],
)
def test_a_heredoc(mark, end, expected):
    run, user = parse_tree(f"RUN {mark}\n\t$a\n{end}\nUSER b").nodes
    assert run.heredocs == (expected,)
    assert (run.origin.line, run.origin.end_line, user.origin.line) == (1, 3, 4)


def test_heredocs_are_read_one_after_another_and_taken_as_they_are():
    copy, run = parse_tree("COPY <<A <<B /dest\n# B\nB\nA\nA\r\nB\nRUN x").nodes
    assert [heredoc.content for heredoc in copy.heredocs] == ["# B\nB\n", "A\r\n"]
    assert run.origin.line == 7


@pytest.mark.parametrize(
    "line",
    [
        "USER <<EOF",
        'RUN "<<EOF"',
        'RUN ["<<EOF"]',
        "RUN <<<EOF",
        "RUN x <<",
        "RUN <<- EOF",  # a gap behind the minus is a gap between words
        "RUN <<'EOF",  # the shell may complain
        "RUN ${x^} <<EOF",  # what BuildKit cannot lex, it does not search
    ],
)
def test_what_is_no_heredoc(line):
    assert only(line).heredocs == ()


def test_a_heredoc_behind_onbuild_belongs_to_the_onbuild():
    node = only("ONBUILD RUN <<EOF\nhello\nEOF")
    assert node.heredocs == (Heredoc("EOF", "hello\n"),)
    assert node.dump() == 'onbuild (run "<<EOF")'


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "file with no instructions"),
        ("# only\n# comments\n", 2, "file with no instructions"),
        ("FROM a\nRUN <<EOF\nx\n", 2, "unterminated heredoc"),
        ("FROM a\nENV x\n", 2, "ENV must have two arguments"),
        ("FROM a\nLABEL \\\n x=y z\n", 2, 'can\'t find = in "z"'),
        ('FROM a\nCMD ["a", 1]\n', 2, "comprised of strings only"),
        ("FROM a\nRUN " + "x" * 65532 + "\n", 2, "greater than max allowed size of 65535"),
        ("FROM a\nONBUILD " + "ONBUILD " * 100_000, 2, "max allowed size"),
        ("ONBUILD \\\n" * 3 + "RUN x", 1, "Chaining ONBUILD"),
    ],
)
def test_what_the_parser_refuses(text, line, reason):
    error = refusal_of(text)
    assert error.line == line
    assert reason in error.reason
    assert error.text == text.split("\n")[line - 1]
