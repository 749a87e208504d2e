"""Control groups on both versions: where a process may make one, what is written there, and that they go again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_capsule.runtime.cgroups import (
    Cgroup,
    Cgroups,
    Group,
    Hierarchy,
    configure,
    hierarchies,
    make_unified,
    remove,
)
from pytest_capsule.runtime.limits import Limits

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_v1_and_v2_beside_each_other():
    found = hierarchies("4:memory:/jobs/7\n1:cpu,cpuacct:/\n0::/user.slice\n", HYBRID)

    assert found["memory"] == Hierarchy(1, Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/memory/jobs/7"))
    assert found["cpu"].own == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found[""] == Hierarchy(2, Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/unified/user.slice"))
    assert "pids" not in found


def test_v2_alone():
    found = hierarchies("0::/a/b\n", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")

    top = Path("/sys/fs/cgroup")
    assert list(found) == [""]
    assert list(found[""].upwards()) == [top / "a/b", top / "a", top]


def test_a_mount_that_shows_a_part_of_the_tree_as_docker_gives_on_v1():
    mountinfo = r"35 31 0:32 /docker/f00 /sys/fs/a\040place ro - cgroup cgroup rw,memory" + "\n"

    assert hierarchies("4:memory:/docker/f00\n", mountinfo)["memory"].own == Path("/sys/fs/a place")
    assert hierarchies("4:memory:/docker/f00/x\n", mountinfo)["memory"].own == Path("/sys/fs/a place/x")
    assert hierarchies("4:memory:/docker/f001\n", mountinfo) == {}
    assert hierarchies("4:memory:/../elsewhere\n", mountinfo) == {}


def test_a_host_without_control_groups_says_so_for_each_limit(tmp_path):
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text("23 1 0:21 / / rw - ext4 /dev/sda rw\n")

    cgroup, refused = Cgroups(tmp_path).enclose(os.getpid(), "x", Limits(memory=1 << 26, cpus=1, pids=9))

    assert cgroup.groups == {}
    assert set(refused) == {"memory", "cpus", "pids"}
    assert {error.strerror for error in refused.values()} == {
        "no hierarchy of control groups with this controller is mounted"
    }


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (
            1,
            {
                "memory.limit_in_bytes": "67108864",
                "memory.memsw.limit_in_bytes": "134217728",
                "cpu.cfs_period_us": "100000",
                "cpu.cfs_quota_us": "50000",
                "pids.max": "21",
            },
        ),
        (2, {"memory.max": "67108864", "memory.swap.max": "67108864", "cpu.max": "50000 100000", "pids.max": "21"}),
    ],
)
def test_what_is_written_is_what_docker_writes_and_one_process_more_for_init(tmp_path, version, files):
    for name in files:
        (tmp_path / name).touch()

    for name in ("memory", "cpus", "pids"):
        configure(Group(version, tmp_path), name, Limits(memory=64 << 20, cpus=0.5, pids=20))

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_kernel_that_does_not_account_for_swap_limits_memory_alone(tmp_path):
    (tmp_path / "memory.max").touch()

    configure(Group(2, tmp_path), "memory", Limits(memory=64 << 20))

    assert (tmp_path / "memory.max").read_text() == "67108864"


def test_the_accounts_of_v2(tmp_path):
    (tmp_path / "memory.current").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nworkingset_inactive_file 7\ninactive_file 1000000\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (tmp_path / "pids.current").write_text("4\n")
    cgroup = Cgroup(dict.fromkeys(("memory", "cpus", "pids"), Group(2, tmp_path)))

    assert cgroup.usage() == {"memory": 4000000, "cpu": 1.5, "pids": 3}
    assert cgroup.oom_kills() == 2


def test_the_accounts_of_v1_as_far_as_its_hierarchies_go(tmp_path):
    (tmp_path / "memory.usage_in_bytes").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 5\ntotal_inactive_file 1000000\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    cgroup = Cgroup({"memory": Group(1, tmp_path)})

    assert cgroup.usage() == {"memory": 4000000}
    assert cgroup.oom_kills() == 1


def test_memory_alone_knows_of_no_oom_elsewhere(tmp_path):
    assert Cgroup({"pids": Group(2, tmp_path)}).oom_kills() == 0


class V2:
    """A group of its own in this machine's v2 tree, with a controller that it can hand on."""

    def __init__(self, mount: Path, controller: str) -> None:
        self.mount = mount
        self.controller = controller
        self.top = mount / f"test-of-pytest-capsule-{os.getpid()}"
        self.own = self.top / "own"
        self.own.mkdir(parents=True)
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        (self.own / "cgroup.procs").write_text(str(self.process.pid))

    def close(self) -> None:
        self.process.communicate()
        for folder, _, _ in os.walk(self.top, topdown=False):
            os.rmdir(folder)


@pytest.fixture
def v2():
    if os.geteuid() != 0:
        pytest.skip("only root may write to the v2 tree")
    mount = hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()).get("")
    available = (mount.mount / "cgroup.controllers").read_text().split() if mount else []
    domains = [name for name in available if name in ("memory", "io", "hugetlb")]
    if not domains or not os.access(mount.mount, os.W_OK):
        pytest.skip("no v2 tree with a controller for memory, io or hugetlb that can be written to")
    switch = mount.mount / "cgroup.subtree_control"
    before = switch.read_text().split()
    switch.write_text(f"+{domains[0]}")
    made = V2(mount.mount, domains[0])
    yield made
    made.close()
    if domains[0] not in before:
        switch.write_text(f"-{domains[0]}")


def test_v2_gives_no_group_beneath_processes_so_it_is_made_beside_them(v2):
    hierarchy = Hierarchy(2, v2.mount, v2.own)

    made, refused = make_unified(hierarchy, [v2.controller], "leaf")

    assert made == {v2.controller: v2.top / "leaf"}
    assert refused == {}
    assert v2.controller in (v2.top / "leaf" / "cgroup.controllers").read_text().split()
    assert str(v2.process.pid) in (v2.own / "cgroup.procs").read_text().split()


def test_v2_in_a_container_that_may_do_it_all_its_processes_make_room(v2):
    """Docker's ``--privileged``: the topmost group that it shows holds all of its processes."""
    hierarchy = Hierarchy(2, v2.own, v2.own)

    (v2.top / "cgroup.subtree_control").write_text(f"+{v2.controller}")
    made, refused = make_unified(hierarchy, [v2.controller], "leaf")

    assert made == {v2.controller: v2.own / "leaf"}
    assert refused == {}
    moved = v2.own / "pytest-capsule-processes" / "cgroup.procs"
    assert str(v2.process.pid) in moved.read_text().split()


def test_v2_says_what_is_missing_and_gives_the_rest(v2):
    hierarchy = Hierarchy(2, v2.mount, v2.own)

    made, refused = make_unified(hierarchy, [v2.controller, "imaginary"], "leaf")

    assert made == {v2.controller: v2.top / "leaf"}
    assert refused["imaginary"].strerror == "no controller imaginary there"
    assert os.fspath(v2.own) in refused["imaginary"].filename


def test_v2_holds_a_process_until_it_is_gone(v2):
    made, _ = make_unified(Hierarchy(2, v2.mount, v2.own), [v2.controller], "leaf")
    directory = made[v2.controller]
    (directory / "cgroup.procs").write_text(str(v2.process.pid))

    v2.process.communicate()
    remove(directory)

    assert not directory.exists()


def test_v2_where_nothing_may_be_made_the_reason_has_the_path(v2):
    as_nobody = """
import os, sys
from pathlib import Path
from pytest_capsule.runtime.cgroups import Hierarchy, make_unified
os.setresuid(12345, 12345, 12345)
mount, own, controller = sys.argv[1:]
made, refused = make_unified(Hierarchy(2, Path(mount), Path(own)), [controller], "leaf")
print(made, refused[controller])
"""

    command = [sys.executable, "-c", as_nobody, v2.mount, v2.own, v2.controller]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said == f"{{}} [Errno 13] Permission denied: 'mkdir in {v2.own}'\n"
