"""What was made of a file is kept while it is the same file."""

import os
import time

import pytest

from pytest_capsule.store.kept import Kept

LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("one")
    os.utime(path, LONG_AGO)
    return path


def test_a_file_is_read_once(file):
    read = []
    kept = Kept(lambda path: read.append(path) or path.read_text())
    assert [kept.of(file), kept.of(file)] == ["one", "one"]
    assert read == [file]


def test_one_that_was_replaced_is_read_anew(file):
    """As the store writes: by a rename, here with the same size and time."""
    kept = Kept(lambda path: path.read_text())
    assert kept.of(file) == "one"
    new = file.with_name("new")
    new.write_text("two")
    os.utime(new, LONG_AGO)
    new.rename(file)
    assert kept.of(file) == "two"


def test_what_changed_a_moment_ago_may_change_within_the_same_tick(file):
    kept = Kept(lambda path: path.read_text())
    soon = time.time() + 3600  # so that it is a moment ago however slow this machine is
    os.utime(file, (soon, soon))
    assert kept.of(file) == "one"
    file.write_text("two")
    os.utime(file, (soon, soon))
    assert kept.of(file) == "two"


def test_a_folder_is_another_when_a_name_in_it_is(file):
    kept = Kept(os.listdir)
    os.utime(file.parent, LONG_AGO)
    assert kept.of(file.parent) == ["record.json"]
    file.rename(file.with_name("other.json"))
    assert kept.of(file.parent) == ["other.json"]


def test_what_is_gone_is_no_more(file):
    kept = Kept(lambda path: path.read_text())
    kept.of(file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        kept.of(file)
