"""zstd for tests, where this Python has it."""

import pytest

from pytest_capsule.archive import compression

needs_zstd = pytest.mark.skipif(not compression.can_read_zstd(), reason="needs Python 3.14 or the extra zstd")


def zstd(data):
    """``data`` compressed."""
    return compression._zstd.compress(data)
