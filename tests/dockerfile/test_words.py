from __future__ import annotations

import pytest

from pytest_capsule.dockerfile import Dialect, Expander, expand, process_word, process_words
from pytest_capsule.errors import DockerfileError

ENV = {"name": "value", "empty": "", "path": "/usr/local/lib/libz.so.1.so", "star": "a*b*c"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$name-$other.", "value-."),
        ("${name}s", "values"),
        ("'$name'\"$name\"", "$namevalue"),
        (r"\$name \a \\", r"$name a " + "\\"),
        (r'"\$name \a \\ \""', r"$name \a \ " + '"'),
        ("${other:-x} ${empty:-x} ${name:-x}", "x x value"),
        ("${other-x} ${empty-x} ${name-x}", "x  value"),
        ("${other:+x}${empty:+x}${name:+x}", "x"),
        ("${other+x}${empty+x}${name+x}", "xx"),
        ("${name:?no name}${name?no name}", "valuevalue"),
        ("${other:-${missing:-$name}}", "value"),
        ("${path#*/}", "usr/local/lib/libz.so.1.so"),
        ("${path##*/}", "libz.so.1.so"),
        ("${path%.so*}", "/usr/local/lib/libz.so.1"),
        ("${path%%.so*}", "/usr/local/lib/libz"),
        ("${path%/*.so}", "/usr/local/lib"),
        ("${path#/???/}", "local/lib/libz.so.1.so"),
        ("${path#nothing}${empty#x}", "/usr/local/lib/libz.so.1.so"),
        (r"${star#a\*}", "b*c"),
        (r"${star%\**}", "a*b"),
        (r"${path/\/usr\/local/}", "/lib/libz.so.1.so"),
        ("${name/v/V}", "Value"),
        ("${path//lib/LIB}", "/usr/local/LIB/LIBz.so.1.so"),
        (r"${path/l*l/[&]}", "/usr/[&]ibz.so.1.so"),
        ("${star//*/x}", "x"),
        ("${star//a/$}", "$*b*c"),
        ("${name//l/$name}", "vavalueue"),
        ("a $ b", "a $ b"),
    ],
)
def test_one_word(text, expected):
    assert process_word(text, ENV) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("'open", "looking for matching single-quote"),
        ('"open', "looking for matching double-quote"),
        ("${name", "missing '}'"),
        ("${name:-x", "missing '}'"),
        ("${name/x", "missing '/'"),
        ("${name/x/y", "missing '}'"),
        ("${}", "bad substitution"),
        ("${name:=x}", "unsupported modifier (:=)"),
        ("${name:#x}", "unsupported modifier (:#)"),
        ("${name^^}", "unsupported modifier (^)"),
        ("${other?}", "other: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${other:?say which}", "other: say which"),
        (r"${name#\v}", r"invalid escape '\v'"),
    ],
)
def test_what_is_refused_says_why_and_in_what(text, reason):
    with pytest.raises(DockerfileError) as refusal:
        process_word(text, ENV)
    assert reason in refusal.value.reason
    assert refusal.value.reason.startswith("failed to process ")


def test_the_words_are_split_after_the_variables_are_replaced():
    assert process_words("a$two \"$two\" '' b\\ c", {"two": "1  2 "}) == ["a1", "2", "1  2 ", "b c"]


def test_a_default_in_the_middle_of_a_word_keeps_what_stands_before_it():
    assert process_words("80${other:-80}", {}) == ["8080"]


def test_the_escape_character_can_be_a_backtick():
    assert process_word("c:\\$name`$name", ENV, "`") == "c:\\value$name"


def test_it_tells_which_variables_were_used_and_which_had_no_value():
    result = expand("$name ${other:-$empty} ${name+x}", ENV)
    assert (result.used, result.unset) == ({"name", "empty"}, {"other"})


def test_an_expander_collects_over_its_calls_and_sees_a_changed_environment():
    env = {"a": "1"}
    expander = Expander(env)
    assert expander.word("$a$b") == "1"
    env["b"] = "2 3"
    assert expander.words("$a$b") == ("12", "3")
    assert expander.heredoc("'$a' \"$b\" \\$a\n") == "'1' \"2 3\" $a\n"
    assert (expander.used, expander.unset) == ({"a", "b"}, {"b"})


def test_raw_quotes_and_unset_variables_can_be_kept():
    dialect = Dialect(raw_quotes=True, raw_escapes=True, keep_unset=True)
    text = "'a' \"b\" \\c $d ${d} ${d:-x} ${d/x/y} ${d:0:3}"
    assert expand(text, {}, dialect).text == text


def test_deep_nesting_is_refused_not_a_crash():
    with pytest.raises(DockerfileError, match="nested deeper"):
        process_word("${a:-" * 100_000, {})


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "a*" * 40 + "b", "?*" * 40 + "b"])
@pytest.mark.parametrize("modifier", ["#", "##", "%", "%%", "/", "//"])
def test_a_pattern_of_many_stars_takes_no_time(pattern, modifier):
    tail = "/x" if "/" in modifier else ""
    value = "a" * 2_000
    assert process_word("${v" + modifier + pattern + tail + "}", {"v": value}) == value
