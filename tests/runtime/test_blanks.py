"""What a blank container does before anybody needs it."""

import os

from pytest_capsule.runtime import init


def test_a_processor_is_idle_where_fewer_want_to_run_than_there_are(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1 << 20)
    assert init._has_idle_processor()
    monkeypatch.setattr(os, "cpu_count", lambda: -1)
    assert not init._has_idle_processor()
