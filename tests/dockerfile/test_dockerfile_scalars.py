from __future__ import annotations

import pytest

from pytest_capsule.dockerfile.scalars import check_signal, parse_csv, parse_duration, parse_size
from pytest_capsule.errors import DockerfileError


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("5s", 5_000_000_000),
        ("1m30s", 90_000_000_000),
        ("100ms", 100_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("-1ns", -1),
        ("+2us3\u00b5s4\u03bcs", 9_000),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("2562047h47m16.854775807s", 2**63 - 1),
    ],
)
def test_durations(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "-", "5", "s", ".s", "1x", "1s2", "1 s", "9223372036854775808ns", "1e3s", "9" * 99]
)
def test_bad_durations(text):
    with pytest.raises(DockerfileError, match=r"^Dockerfile: time: "):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("10b", 10), ("1k", 1024), ("64M", 64 << 20), ("1.5 GiB", 3 << 29), ("2tb", 2 << 40)],
)
def test_sizes(text, size):
    assert parse_size("size", text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1mm", "1bb", "1x", "0x10", "nan", "1e999"])
def test_bad_sizes(text):
    with pytest.raises(DockerfileError, match="invalid value for size"):
        parse_size("size", text)


def test_csv():
    assert parse_csv('a=b,"c=d,e","say ""x""",,f') == ["a=b", "c=d,e", 'say "x"', "", "f"]


@pytest.mark.parametrize("text", ["", 'a"b', '"a', '"a"b', '"a""'])
def test_bad_csv(text):
    with pytest.raises(DockerfileError):
        parse_csv(text)


@pytest.mark.parametrize("text", ["SIGTERM", "term", "9", "SIGRTMIN+15", "RTMAX-1"])
def test_signals(text):
    check_signal(text)


@pytest.mark.parametrize("text", ["", "0", "SIGFOO", "RTMIN+16", "1.5"])
def test_bad_signals(text):
    with pytest.raises(DockerfileError, match="Invalid signal"):
        check_signal(text)
