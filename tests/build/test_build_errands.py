"""What a build does beside its steps."""

import threading

import pytest

from pytest_capsule.build.errands import Errands


def test_all_are_done_in_their_order_when_the_block_ends():
    go, done = threading.Event(), []
    with Errands() as errands:
        errands.add(lambda: done.append(go.wait(60)))
        for number in range(3):
            errands.add(lambda number=number: done.append(number))
        assert done == [], "nobody waits for them before"
        go.set()
    assert done == [True, 0, 1, 2]
    assert [thread.name for thread in threading.enumerate() if thread.name == "capsule-errands"] == []


def test_who_waits_goes_on_when_those_before_are_done():
    go, done = threading.Event(), []
    with Errands() as errands:
        errands.settle()
        errands.add(lambda: done.append(go.wait(60)))
        threading.Timer(0.01, go.set).start()
        errands.settle()
        assert done == [True]


def test_a_failure_is_raised_in_the_end_and_keeps_none_from_being_done():
    done = []
    with pytest.raises(ZeroDivisionError), Errands() as errands:
        errands.add(lambda: 1 / 0)
        errands.add(lambda: done.append(True))
    assert done == [True]


def test_what_went_wrong_in_the_block_comes_first():
    with pytest.raises(KeyError), Errands() as errands:
        errands.add(lambda: 1 / 0)
        raise KeyError
