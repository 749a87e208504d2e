"""Each test gets its own container: what one test writes, breaks or deletes, the next never sees."""

import pytest

from pytest_capsule import wait

pytestmark = pytest.mark.container("capsule/host", command=[])


def test_one_test_writes(container):
    container.write_text("/srv/left-behind", "from the first test")
    container.exec("rm -rf /etc/passwd /usr/share/doc", check=True)

    assert container.exists("/srv/left-behind")
    assert not container.exists("/etc/passwd")


def test_the_next_one_sees_nothing_of_it(container):
    assert not container.exists("/srv/left-behind")
    assert "root:" in container.read_text("/etc/passwd")
    assert container.diff() == []


@pytest.mark.parametrize("turn", range(5))
def test_its_processes_and_ports_are_its_own_too(container, turn):
    """Five servers on one port number, one after the other or at once: each is alone in its container."""
    container.popen(["python3", "-m", "http.server", "8000"])
    wait.until(container, wait.port(8000), timeout=10)

    assert sorted(process["name"] for process in container.top()) == ["init", "python3"]
