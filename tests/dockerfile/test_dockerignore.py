from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capsule.dockerfile import IgnoreRules, patterns
from pytest_capsule.dockerfile.patterns import clean
from pytest_capsule.errors import DockerfileError


def ignored(text, *paths):
    rules = IgnoreRules.parse(text)
    return [path for path in paths if rules.ignores(path)]


def test_the_last_pattern_that_matches_decides():
    text = "*.md\n!README*.md\nREADME-secret.md\n"
    assert ignored(text, "notes.md", "README.md", "README-secret.md") == ["notes.md", "README-secret.md"]


def test_comments_empty_lines_a_byte_order_mark_and_carriage_returns_are_no_patterns():
    rules = IgnoreRules.parse(b"\xef\xbb\xbf# comment\r\n\r\n  dist  \r\n # not a comment\r\n")
    assert [pattern.text for pattern in rules.patterns] == ["dist", "# not a comment"]


@pytest.mark.parametrize("line", ["/build", "build/", "./build", "build/.", "a/../build", "//build//", "  build  "])
def test_a_path_is_cleaned(line):
    assert ignored(line, "build", "build/x", "sub/build") == ["build", "build/x"]


def test_an_exception_is_cleaned_too():
    assert ignored("*\n! /src/ \n", "src", "src/a.py", "other") == ["other"]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ["a", "a.b", "a/b"], []),
        ("*.go", ["a.go"], ["a.gox", "d/a.go"]),
        ("*/temp*", ["a/temp", "a/temporary/x"], ["temp", "a/b/temp"]),
        ("temp?", ["tempa"], ["temp", "temp/", "tempab"]),
        ("**", ["a", "a/b"], []),
        ("**/*.pyc", ["a.pyc", "d/a.pyc", "d/e/a.pyc"], ["a.py"]),
        (
            "**/node_modules",
            ["node_modules/x", "a/node_modules", "a/b/node_modules/c"],
            ["node_modules2", "xnode_modules"],
        ),
        ("**file", ["file", "dir/file", "dir/otherfile"], ["dir/files"]),
        ("dir/**", ["dir/a", "dir/a/b"], ["dir", "dir2/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/c"], ["ab", "a/xb"]),
        ("a**/*.txt", ["a/f.txt", "a/d/f.txt"], ["b/f.txt"]),
        ("**/**/*.txt", ["f.txt", "d/e/f.txt"], ["f.txt2"]),
        ("**/d/*.t*.b*/**", ["d/a.tx.by/z", "q/d/a.tx.by/z"], ["d/a.tx.by", "d/a.tx/by/z"]),
        ("a[b-d]e", ["ace"], ["ae", "aae"]),
        ("a[^b-d]e", ["aze"], ["ace"]),
        (r"[\]a]", ["]", "a"], ["b"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("a(b)|{c}+$.x", ["a(b)|{c}+$.x"], ["a(b)|{c}+$_x"]),
        ("안?", ["안녕"], ["안"]),
    ],
)
def test_patterns(pattern, matching, others):
    assert ignored(pattern, *matching, *others) == matching


@pytest.mark.parametrize(
    ("text", "line"),
    [("ok\n!\n", 2), ("# x\n\n[a-\n", 3), ("[]a]", 1), ("[z-a]", 1), ("a\\", 1), ("a[", 1), ("x\n" + "y" * 70_000, 2)],
)
def test_a_bad_pattern_is_named_with_its_line(text, line):
    with pytest.raises(DockerfileError) as refusal:
        IgnoreRules.parse(text, path="app/.dockerignore")
    assert (refusal.value.path, refusal.value.line) == ("app/.dockerignore", line)
    assert refusal.value.text == text.split("\n")[line - 1]


def test_an_exception_for_a_directory_does_not_bring_back_what_was_ignored_in_it():
    """The reference says "the last line that matches"; Docker's client asks directory by directory."""
    assert ignored("a/b\n!a\n", "a", "a/b", "a/b/c") == ["a/b", "a/b/c"]


def test_an_exception_beneath_an_ignored_directory_is_kept():
    rules = IgnoreRules.parse("docs\n!docs/guide/*.md\n")
    assert [path for path in ("docs", "docs/x", "docs/guide", "docs/guide/a.md") if not rules.ignores(path)] == [
        "docs/guide/a.md"
    ]
    assert rules.may_contain_kept("docs")


def test_a_walk_leaves_out_directories_that_no_exception_reaches_into():
    rules = IgnoreRules.parse("*\n!src/lib/**\n!pyproject.toml\n")
    assert [name for name in ("src", "src/lib", "src/other", "node_modules") if rules.may_contain_kept(name)] == [
        "src",
        "src/lib",
    ]
    assert not IgnoreRules.parse("node_modules").may_contain_kept("node_modules")
    assert IgnoreRules.parse("*\n!**/*.py").may_contain_kept("anything")


def test_verdicts_are_handed_down_in_a_walk():
    rules = IgnoreRules.parse("src\n!src/keep\n")
    src = rules.verdict("src")
    keep = rules.verdict("src/keep", src)
    assert (src.ignored, keep.ignored, rules.verdict("src/keep/a", keep).ignored) == (True, False, False)


def test_patterns_of_a_flag_know_no_comments_and_keep_their_slash():
    rules = IgnoreRules.of(["#a", "/b", "", "!#a/x"])
    assert [path for path in ("#a", "#a/x", "b") if rules.ignores(path)] == ["#a"]


def test_the_context_itself_is_never_ignored():
    assert ignored("**\n.", ".", "") == []


def test_a_pattern_of_many_stars_takes_no_time():
    rules = IgnoreRules.parse("**/" + "*a" * 60 + "*/**/b")
    assert not rules.ignores("/".join("a" * 200 for _ in range(20)))


paths = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4).map("/".join)


@settings(deadline=None, database=None)
@given(st.lists(st.sampled_from(["a", "/", "*", "**/", "**", "?", "[ab]", r"\*"]), min_size=1).map("".join), paths)
def test_many_wildcards_match_what_few_do(text, path):
    """From three wildcards on a machine takes over from ``re``; both must say the same."""
    tokens = patterns._tokens(clean(text))
    expression = re.compile("".join(token.expression for token in tokens))
    assert patterns._Machine(tokens).accepts(path) == bool(expression.fullmatch(path))


names = st.text("ab*", min_size=1, max_size=3)
rule_lines = st.builds(
    "{}{}".format, st.sampled_from(["", "!"]), st.lists(names | st.just("**"), min_size=1).map("/".join)
)


@settings(deadline=None, database=None)
@given(st.lists(rule_lines, max_size=5), paths, paths)
def test_a_directory_that_is_pruned_holds_nothing_that_is_kept(lines, directory, below):
    rules = IgnoreRules.parse("\n".join(lines))
    if not rules.may_contain_kept(directory):
        assert rules.ignores(f"{directory}/{below}")


@settings(deadline=None, database=None)
@given(st.text("ab/*?[]!^-\\.\n", max_size=20), paths)
def test_any_rules_can_be_read_or_are_refused(text, path):
    try:
        rules = IgnoreRules.parse(text)
    except DockerfileError as refusal:
        assert refusal.line is not None
    else:
        assert rules.ignores(path) in (True, False)
