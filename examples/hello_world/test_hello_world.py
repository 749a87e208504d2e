"""The smoke test: if this passes, containers work on this machine."""

import pytest


@pytest.mark.container("hello-world")
def test_hello_world(container):
    assert container.wait(timeout=5) == 0
    assert "Hello from" in container.logs()
