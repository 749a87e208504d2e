"""What ``memory``, ``cpus`` and ``pids`` may say."""

import os

import pytest

from pytest_capsule.errors import UsageError
from pytest_capsule.runtime.limits import Limits, size_text

THERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (64 << 20, 64 << 20),
        ("67108864", 64 << 20),
        ("67108864b", 64 << 20),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 m", 64 << 20),
        ("8192k", 8 << 20),
        ("1g", 1 << 30),
        ("1.5g", 3 << 29),
        (".5g", 1 << 29),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
        ("6m", 6 << 20),
        (0, None),
        ("0", None),
        (None, None),
    ],
)
def test_memory_is_read_as_docker_reads_it(text, size):
    assert Limits.parse(memory=text).memory == size


@pytest.mark.parametrize("text", ["", "m", "64x", "64mbb", "64bm", "64  m", "-64m", "1,5g", "1.2.3g", "٦٤m", -1, True])
def test_what_is_no_size_is_named_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        Limits.parse(memory=text)
    assert str(caught.value).startswith(f"memory={text!r}: ")
    assert caught.value.hint == 'for instance memory="64m"'


@pytest.mark.parametrize("text", ["5m", "6291455", 1])
def test_less_memory_than_docker_gives_is_refused(text):
    with pytest.raises(UsageError, match="the least that a container can have is 6 MB"):
        Limits.parse(memory=text)


@pytest.mark.parametrize("cpus", [0.01, 0.5, 1, THERE])
def test_cpus_is_a_number_of_processors(cpus):
    assert Limits.parse(cpus=cpus).cpus == cpus


@pytest.mark.parametrize("cpus", [0, 0.001, -1, THERE + 0.5, float("inf"), float("nan"), True])
def test_more_processors_than_there_are_is_refused_in_dockers_words(cpus):
    with pytest.raises(UsageError) as caught:
        Limits.parse(cpus=cpus)
    assert f"cpus={cpus!r}: range of CPUs is from 0.01 to {THERE}.00, as there are only {THERE} CPUs" in str(
        caught.value
    )
    assert caught.value.hint == "for instance cpus=0.5"


@pytest.mark.parametrize(("pids", "limit"), [(1, 1), (100, 100), (0, None), (-1, None), (None, None)])
def test_pids_is_a_number_of_processes(pids, limit):
    assert Limits.parse(pids=pids).pids == limit


@pytest.mark.parametrize("pids", [-2, True, False])
def test_what_is_no_number_of_processes_is_named_with_an_example(pids):
    with pytest.raises(UsageError, match=f"pids={pids}: .*\n  hint: for instance pids=100"):
        Limits.parse(pids=pids)


def test_only_what_was_given_is_asked_of_the_host():
    assert Limits.parse(memory="64m", pids=-1).asked() == {"memory": 64 << 20}
    assert Limits.parse().asked() == {}


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512 bytes"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (6291456, "6 MiB")]
)
def test_a_size_as_people_read_it(size, text):
    assert size_text(size) == text
