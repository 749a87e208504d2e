"""Owners on record: written, read back, replaced and taken away."""

import os

import pytest

from pytest_capsule._linux import ownership


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    path.chmod(0o640)
    try:
        os.setxattr(path, "user.try", b"")
    except OSError:
        pytest.skip("this filesystem keeps no attributes of users")
    return path


def test_a_record_is_as_containers_storage_writes_it(file):
    ownership.record(str(file), 12, 34)
    assert os.getxattr(file, "user.containers.override_stat") == b"12:34:0640"
    assert ownership.recorded(str(file)) == (12, 34)


@pytest.mark.parametrize(
    ("value", "owner"),
    [(b"1:2:0755:file", (1, 2)), (b"1:2", (1, 2)), (b"", None), (b"x:2:0644", None), (b"1", None), (b"-1:2:0", None)],
)
def test_what_others_have_written(file, value, owner):
    os.setxattr(file, ownership.XATTR, value)
    assert ownership.recorded(str(file)) == owner


def test_root_needs_no_record(file):
    ownership.record(str(file), 12, 34)
    ownership.record(str(file), 0, 0)
    ownership.record(str(file), 0, 0)
    assert os.listxattr(file) == ["user.try"]
    assert ownership.recorded(str(file)) is None


def test_a_link_has_none_and_is_not_followed(file, tmp_path):
    ownership.record(str(file), 12, 34)
    (tmp_path / "link").symlink_to(file)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        ownership.record_in(parent, "link", 5, 6)
        assert ownership.recorded_in(parent, "file") == (12, 34)
        assert ownership.recorded_in(parent, "link") is None
        assert ownership.recorded(str(tmp_path / "link")) is None
        assert ownership.recorded(str(tmp_path / "link"), follow=True) == (12, 34)
    finally:
        os.close(parent)
