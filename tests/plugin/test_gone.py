"""Nothing is left behind, however pytest ends; and several pytests get along."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest
from watching import until

SLEEPERS = """
    import time
    import pytest

    @pytest.mark.container("capsule/host", command="sleep 1001 & setsid sleep 1002 & exec sleep 1003", name="left")
    def test_it(container, capsule, pytestconfig):
        with capsule.run("capsule/host", command=["sleep", "1004"], ports=[80]) as other:
            address = other.address(80)
            pids = [process["pid"] for one in (container, other) for process in one.top()]
            links = container.exec("readlink /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/mnt").stdout
            namespaces = set(links.split())
            (pytestconfig.rootpath / "seen.tmp").write_text(" ".join(map(str, [*pids, *namespaces])))
            (pytestconfig.rootpath / "seen.tmp").rename(pytestconfig.rootpath / "seen")
            time.sleep(60)

    import os
"""


@pytest.fixture
def running(pytester, cache):
    """A pytest in the middle of a test with two containers; the process, and what its containers consist of."""
    pytester.makepyfile(test_suite=SLEEPERS)
    command = [sys.executable, "-m", "pytest", "-q", f"--capsule-cache-dir={cache}"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        seen = pytester.path / "seen"
        assert until(seen.exists), process.communicate(timeout=1)
        pids, namespaces = [], set()
        for word in seen.read_text().split():
            (pids.append(int(word)) if word.isdigit() else namespaces.add(word))
        assert len(pids) == 6
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert set(pids) <= set(children)
        yield process, children, namespaces
        process.kill()


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid)]


def namespaces_in_use(processes):
    """The namespaces of those of some processes that are still there, each with the id of one of those."""
    found = {}
    for process in processes:
        for kind in ("pid", "net", "mnt"):
            with contextlib.suppress(OSError):
                found[os.readlink(f"/proc/{process.pid}/ns/{kind}")] = process.pid
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_killed_pytest_leaves_no_process_no_namespace_and_no_mount(running, number):
    process, children, namespaces = running
    there = set(psutil.process_iter())  # who comes later may be given the number of a namespace that is gone

    process.send_signal(number)
    process.wait(timeout=20)

    assert until(lambda: not alive(children)), alive(children)
    still = namespaces_in_use(there.intersection(psutil.process_iter()))
    assert {name: pid for name, pid in still.items() if name in namespaces} == {}


def test_a_killed_supervisor_takes_its_containers_along(running):
    process, children, _ = running
    supervisor = next(pid for pid in children if psutil.Process(pid).ppid() == process.pid)

    os.kill(supervisor, signal.SIGKILL)

    assert until(lambda: not alive(set(children) - {supervisor}))


def test_a_forked_child_that_outlives_pytest_does_not_keep_containers(pytester, cache):
    pytester.makepyfile(
        test_suite="""
        import os
        import time
        import pytest

        @pytest.mark.container("capsule/host", command=["sleep", "1005"])
        def test_it(container, pytestconfig):
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            (pytestconfig.rootpath / "pid").write_text(str(container.pid))
            os.kill(os.getpid(), 9)
        """
    )
    command = [sys.executable, "-m", "pytest", "-q", f"--capsule-cache-dir={cache}"]

    ended = subprocess.run(
        command, cwd=pytester.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False
    )

    assert ended.returncode == -signal.SIGKILL
    pid = int((pytester.path / "pid").read_text())
    assert until(lambda: not psutil.pid_exists(pid))
