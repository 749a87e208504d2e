"""``--secret`` of ``capsule build``: what each form means. Buildx, ``ParseSecretSpecs``."""

from pathlib import Path

import pytest

from pytest_capsule.cli.secrets import secret
from pytest_capsule.errors import UsageError


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("TOKEN", "the value")
    monkeypatch.delenv("other", raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id=a,src=file", ("a", Path("file"))),
        ("id=a,source=dir/file", ("a", Path("dir/file"))),
        ("id=a,env=TOKEN", ("a", b"the value")),
        ("id=TOKEN", ("TOKEN", b"the value")),
        ("id=other", ("other", Path("other"))),
        ("type=file,id=TOKEN", ("TOKEN", Path("TOKEN"))),
        ("type=env,id=TOKEN", ("TOKEN", b"the value")),
        ("type=env,id=a,src=TOKEN", ("a", b"the value")),
        ('id=a,"src=with, comma"', ("a", Path("with, comma"))),
        ("ID=a,SRC=file", ("a", Path("file"))),
    ],
)
def test_forms(text, expected):
    assert secret(text) == expected


@pytest.mark.parametrize("text", ["", "a", "src=file", "id=a,src=b,env=TOKEN", "id=a,type=pipe", "id=a,path=b"])
def test_what_is_none(text):
    with pytest.raises(UsageError, match="write it id=ID,src=FILE or id=ID,env=NAME"):
        secret(text)


def test_a_variable_that_is_not_set():
    with pytest.raises(UsageError, match="there is no environment variable NO_SUCH"):
        secret("id=a,env=NO_SUCH")
