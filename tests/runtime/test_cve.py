"""The known ways out of a container, each tried by hostile code inside, as root and as another user.

A test is named by the CVE whose attack it carries out. What must not happen would show outside, or in what the hostile
code reports; each of these tests fails when the defence that it is about is taken away.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
import textwrap
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pytest_capsule.errors import CapsuleError, ContainerError, UsageError

ROUNDS = 40
VICTIM = "what the host has"
HOSTS_PYTHON = os.path.realpath(sys.executable)


@pytest.fixture(params=["root", "another user"])
def user(request, identity):
    """Who the hostile code is inside."""
    if request.param == "root":
        return "0"
    if identity == "single":
        pytest.skip("there is nobody but root")
    return "1234:1234"


@pytest.fixture
def victim(tmp_path):
    """A file of the host in a folder of its own, which anybody may read and write."""
    folder = tmp_path / "outside"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent.owner() == folder.owner() and parent != parent.parent:
            parent.chmod(parent.stat().st_mode | 0o011)
    file = folder / "victim"
    file.write_text(VICTIM)
    file.chmod(0o666)
    return file


@contextmanager
def hostile(container, script, user="0"):
    """``script`` runs inside for as long as the block does; it says "ready", and goes on until its stdin ends."""
    prelude = "import os, sys, select, time\nrunning = lambda: not select.select([0], [], [], 0)[0]\n"
    process = container.popen(["python3", "-c", prelude + textwrap.dedent(script)], user=user)
    report = []
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield report
    finally:
        process.stdin.close()
        report += process.stdout.read().splitlines()
        process.wait(20)
        assert process.exit_code == 0, process.stderr.read()
        process.close()


def test_cve_2019_5736_the_program_that_forks_the_commands(host, user):
    """runc was overwritten by an image whose program is ``#!/proc/self/exe``: that runs runc inside, and holds it open.

    A handle is enough for more than that: its mode and owner can be changed while it runs.
    """
    script = """\
        #!/proc/self/exe
        import os
        fd = os.open("/proc/self/exe", os.O_RDONLY)
        info = os.fstat(fd)
        print(info.st_dev, info.st_ino)
        for how in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            try:
                os.open(f"/proc/self/fd/{fd}", how)
                print("opened")
            except OSError:
                pass
        """
    host.write_text("/tmp/evil", textwrap.dedent(script))
    host.exec("chmod 755 /tmp/evil", check=True)
    python = os.stat(HOSTS_PYTHON)
    done = host.exec(["/tmp/evil"], user=user)
    assert done.stdout.splitlines() != [], done  # it does run: nothing can keep it from that
    assert done.stdout.splitlines()[1:] == []
    assert done.stdout.split() != [str(python.st_dev), str(python.st_ino)], "a handle on a file of the host"


def test_cve_2019_5736_a_command_on_its_way_to_be_executed(host, user):
    """The other half: the program of whoever joins the container is looked for in ``/proc/PID/exe`` from inside."""
    watch = """
        import sys
        known = {os.stat(path).st_ino for path in ("/bin/true", "/proc/self/exe")}
        print("ready", flush=True)
        seen = set()
        while running():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
                except OSError:
                    continue
                if os.fstat(fd).st_ino not in known:
                    seen.add(os.readlink(f"/proc/self/fd/{fd}"))
                os.close(fd)
        print(*seen, sep="\\n")
        """
    with hostile(host, watch, user) as report:
        for _ in range(ROUNDS):
            host.exec(["/bin/true"], user=user, check=True)
    assert not [line for line in report if line]


def test_cve_2016_9962_a_command_on_its_way_in_is_not_traced(host, user):
    """A process that joins has descriptors of the outside until it is executed: they were taken by ptrace and /proc."""
    watch = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        seen = {"init: traced"} if libc.ptrace(16, 1, 0, 0) == 0 else set()  # PTRACE_ATTACH
        print("ready", flush=True)
        while running():
            for pid in set(filter(str.isdigit, os.listdir("/proc"))) - {str(os.getpid())}:
                try:  # what ptrace(2) may read of it, while it has the memory of what forked it
                    maps = open(f"/proc/{pid}/maps").read()
                    seen |= {f"{pid}: {line}" for line in maps.splitlines() if "memfd:" in line or "python" in line}
                except OSError:
                    pass
                try:
                    opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
                    seen |= {f"{pid}: {one}" for one in opened if not one.startswith(("pipe:", "/dev/null", "/proc/"))}
                except OSError:
                    pass
        print(*seen, sep="\\n")
        """
    with hostile(host, watch, user) as report:
        for _ in range(ROUNDS):
            host.exec(["/bin/true"], user=user, check=True, timeout=20)
    assert not [line for line in report if line and not line.endswith(("/etc/ld.so.cache", ".so", ".so.6"))]


def test_cve_2024_21626_a_working_directory_through_a_descriptor(engine, host, tmp_path, user):
    """WORKDIR /proc/self/fd/7 stood in a directory of the host, by a descriptor that runc had left open."""
    host.exec("for n in $(seq 3 40); do ln -s /proc/self/fd/$n /srv/fd$n; done; ln -s /proc/1/cwd /srv/cwd", check=True)
    doors = [f"/proc/self/fd/{number}" for number in range(3, 41)] + [f"/srv/fd{number}" for number in range(3, 41)]
    for door in [*doors, "/proc/1/cwd", "/proc/1/root", "/srv/cwd", "/proc/self/cwd", "/proc/self/root"]:
        for path in (door, f"{door}/../../../.."):
            with pytest.raises(CapsuleError):
                host.exec(["ls"], workdir=path, user=user)
    image = host.commit()
    (tmp_path / "Dockerfile").write_text(f"FROM {image.id}\nWORKDIR /srv/fd7\nRUN ls\n")
    with pytest.raises(CapsuleError):
        engine.build(tmp_path)
    with pytest.raises(ContainerError):
        engine.run(image, command=["ls"], workdir="/srv/fd9")


def test_cve_2024_21626_no_descriptor_of_the_outside_is_left(engine, host, user):
    show = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1])"
    assert host.exec(["python3", "-c", show], user=user).stdout == "[0, 1, 2]\n"
    with engine.run("capsule/host", command=["python3", "-c", show], user=user) as container:
        assert container.wait(20) == 0
        assert container.logs() == "[0, 1, 2]\n"
    process = host.popen(["python3", "-c", show], user=user, tty=True)
    assert process.wait(20) == 0
    assert os.read(process.terminal, 100).split() == b"[0, 1, 2]".split()


@pytest.fixture
def image_with(engine, host):
    """``image_with(script)``: this machine's userland after a shell script has changed it."""

    def make(script):
        host.exec(script, check=True)
        return host.commit()

    return make


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd"])
def test_cve_2025_31133_an_image_whose_dev_null_is_a_link(engine, debian_rootfs, tmp_path, target, user):
    """Masks are binds of /dev/null; where that was the image's own link, its target was bound, writable."""
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    os.symlink(target, root / "dev/null")
    with engine.run("capsule/host", command=[]) as container:
        container.exec("rm -f /dev/null; ln -sf /proc/sys/kernel/core_pattern /dev/null; mv /dev /dev2")
        lines = container.exec(["stat", "-c", "%t:%T", "/dev/null", "/proc/keys", "/proc/timer_list"], user=user).stdout
        assert set(lines.split()) == {"1:3"}
    with engine.run(f"rootfs:{root}", command=[]) as container:
        with container.open("/dev/null", "rb") as file:
            info = os.fstat(file.fileno())
        assert (stat.S_ISCHR(info.st_mode), info.st_rdev) == (True, os.makedev(1, 3))
        for masked in ("/proc/keys", "/proc/timer_list"):
            assert container.read_bytes(masked) == b""
        with pytest.raises(OSError, match="Read-only"):
            container.write_text("/proc/sys/kernel/core_pattern", "|/evil")


def test_cve_2025_52565_a_terminal_that_was_swapped_for_a_link(host, user):
    """/dev/console was bound from /dev/pts/N, which the container had swapped for a link by then."""
    host.exec("rm -f /dev/ptmx; ln -s /etc/passwd /dev/ptmx; rm -f /dev/tty; mv /dev/pts /dev/p; rm -f /dev/pts/*")
    process = host.popen(["sh", "-c", "test -t 0 && readlink /proc/self/fd/0"], tty=True, user=user)
    assert process.wait(20) == 0
    assert os.read(process.terminal, 100).strip() == b"/dev/pts/0"


def test_cve_2025_52565_a_command_s_side_of_a_terminal_that_was_swapped_for_a_file(engine, user):
    """The other half: /dev/pts/N is what somebody who may mount shows there, and what is typed would go to that."""
    with engine.run("capsule/host", command=[], privileged=True) as container:
        script = """
            mkdir -p /fake/pts && touch /fake/ptmx && mount --bind /dev/pts /fake/pts
            for number in 0 1 2 3 4 5 6 7; do echo untouched > /fake/$number; chmod 666 /fake/$number; done
            mount --bind /dev/pts/ptmx /fake/ptmx && mount --rbind /fake /dev/pts
            ls /dev/pts && cat /dev/pts/0"""
        assert container.exec(script, check=True).stdout.split() == [*"01234567", "ptmx", "pts", "untouched"]
        done = container.exec(
            "test -t 0 && test -t 1 && read word && echo got $word", stdin="typed\n", tty=True, user=user
        )
        assert (done.exit_code, done.stdout.split()) == (0, ["typed", "got", "typed"])
        assert set(container.exec("cat /fake/[0-7]").stdout.split()) == {"untouched"}


def test_cve_2025_52881_what_is_written_to_proc_is_not_led_elsewhere(engine, tmp_path):
    """Writes to /proc/self/... went where a container had led them: into a file of its own, or to /proc/sysrq-trigger.

    A volume over /proc is refused, as by runc. Here somebody inside who may mount shows files of their own there.
    """
    fake = tmp_path / "proc"
    for path in ("self/attr/current", "self/oom_score_adj", "self/setgroups", "self/uid_map", "sys/net/x"):
        (fake / path).parent.mkdir(parents=True, exist_ok=True)
        (fake / path).write_text("untouched")
        (fake / path).chmod(0o666)
    (fake / "1").symlink_to("self")
    with pytest.raises(UsageError, match="the target cannot be /proc"):
        engine.run("capsule/host", command=[], volumes=[f"{fake}:/proc"])
    volumes = [f"{fake}:/fake"]
    with engine.run("capsule/host", command=[], privileged=True, volumes=volumes, memory="256m") as container:
        container.exec(["mount", "--bind", "/fake", "/proc"], check=True)
        container.exec(["/bin/true"], check=True)
        assert container.read_text("/proc/1/oom_score_adj") == "untouched"
    assert {path.read_text() for path in fake.rglob("*") if path.is_file()} == {"untouched"}


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("cve", ["2019-19921", "2023-27561"])
def test_cve_an_image_with_a_link_where_the_kernels_files_go(engine, tmp_path, name, cve):
    """What is mounted, masked and made read-only there would land at the link's end: in a volume that others change."""
    root, shared = tmp_path / "root", tmp_path / "shared"
    (root / "etc").mkdir(parents=True)
    shared.mkdir()
    (root / name).symlink_to({"2019-19921": "/etc", "2023-27561": "/shared"}[cve])
    with pytest.raises(ContainerError, match=f"/{name} is not a directory"):
        engine.run(f"rootfs:{root}", command=[], volumes=[f"{shared}:/shared"])
    assert list(shared.iterdir()) == []


def test_cve_2024_45310_no_mount_point_is_made_outside(engine, host, tmp_path, victim):
    """Two containers share a volume; one swaps a folder in it while mount points are made there for the other."""
    shared = tmp_path / "shared"
    (shared / "a").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    swap = f"""
        os.chdir("/v")
        os.symlink({str(victim.parent)!r}, "link")
        os.mkdir("real")
        print("ready", flush=True)
        while running():
            for one in ("link", "real"):
                try:
                    os.rename("a", "b"); os.rename(one, "a"); os.rename("a", one); os.rename("b", "a")
                except OSError:
                    pass
        """
    with engine.run("capsule/host", command=[], volumes=[f"{shared}:/v"]) as attacker, hostile(attacker, swap):
        for number in range(ROUNDS):
            volumes = [f"{shared}:/v", f"{empty}:/v/a/made{number}/deep"]
            with suppress(ContainerError):  # what was there has gone meanwhile
                engine.run("capsule/host", command=[], volumes=volumes).close()
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]


def test_cve_2022_29162_no_inheritable_capabilities(host, user):
    """With them, a file with inheritable capabilities gave them to any user."""
    cap_chown_inheritable = b"\x01\x00\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    host.exec("cp /bin/cat /tmp/cat", check=True)
    script = f"import os; os.setxattr('/tmp/cat', 'security.capability', {cap_chown_inheritable!r})"
    host.exec(["python3", "-c", script], check=True)
    lines = host.exec(["/tmp/cat", "/proc/self/status"], user=user, check=True).stdout.splitlines()
    sets = {line.split()[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}
    assert sets["CapInh:"] == sets["CapAmb:"] == 0
    assert user == "0" or sets["CapPrm:"] == 0


@pytest.mark.parametrize("limits", [{}, {"pids": 100}], ids=["unlimited", "in a group of its own"])
def test_cve_2022_0492_no_release_agent_can_be_set(engine, user, limits):
    """Whoever may mount a cgroup of version 1 names the program that the host runs when a group is empty."""
    script = textwrap.dedent(
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        os.makedirs("/tmp/c", exist_ok=True)
        for flags in (0x10000000 | 0x02000000 | 0x00020000, 0x10000000, 0):
            if flags == 0 or libc.unshare(flags) == 0:
                print("unshared") if flags else None
                for name in (b"rdma", b"memory", b"pids", b"none,name=x"):
                    if libc.mount(b"cgroup", b"/tmp/c", b"cgroup", 0, name) == 0:
                        print("mounted", name)
        for folder, _, files in os.walk("/sys/fs/cgroup"):
            for name in {"release_agent", "notify_on_release", "cgroup.procs"} & set(files):
                try:
                    os.close(os.open(os.path.join(folder, name), os.O_WRONLY))
                    print("opened", folder, name)
                except OSError:
                    pass
        """
    )
    with engine.run("capsule/host", command=[], **limits) as container:
        assert container.exec(["python3", "-c", script], user=user, check=True).stdout == ""


SWAPS = """
    os.makedirs("/x/real", exist_ok=True)
    open("/x/real/victim", "w").write("what the container has")
    os.path.lexists("/x/link") or os.symlink({outside!r}, "/x/link")
    os.rename("/x/real", "/x/dir")
    print("ready", flush=True)
    while running():
        for old, new in (("dir", "real"), ("link", "dir"), ("dir", "link"), ("real", "dir")):
            try:
                os.rename(f"/x/{{old}}", f"/x/{{new}}")
            except OSError:  # what is copied in has taken its place
                pass
    """


@pytest.mark.parametrize("source", ["/x/dir/victim", "/x/dir", "/x"])
def test_cve_2018_15664_copying_out_while_a_folder_is_swapped(host, victim, tmp_path, source, user):
    """``docker cp`` resolved the path first and opened it afterwards, on the host."""
    host.exec("mkdir -m 777 /x", check=True)
    with hostile(host, SWAPS.format(outside=str(victim.parent)), user):
        for number in range(50 * ROUNDS):
            try:
                host.copy_out(source, tmp_path / f"copy{number}")
            except (OSError, CapsuleError):
                continue
            if number >= ROUNDS and any(not path.is_symlink() for path in tmp_path.glob("copy*")):
                break  # at least one of them was of a folder that stood still for long enough
    copies = [path for path in tmp_path.glob("copy*") if not path.is_symlink()]
    assert copies
    for path in copies:
        files = (
            [Path(folder, name) for folder, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
        )
        assert not [file for file in files if not file.is_symlink() and file.read_text() == VICTIM]


def test_cve_2019_10152_copying_in_while_a_folder_is_swapped(host, victim, tmp_path, user):
    """The same the other way round: what is copied in would be written outside."""
    host.exec("mkdir -m 777 /x", check=True)
    (tmp_path / "victim").write_text("copied in")
    with hostile(host, SWAPS.format(outside=str(victim.parent)), user):
        for _ in range(ROUNDS):
            for destination in ("/x/dir/victim", "/x/dir/", "/x/dir/new/victim"):
                try:
                    host.copy_in(tmp_path / "victim", destination)
                    host.write_text("/x/dir/victim", "written")
                except (OSError, CapsuleError):
                    continue
    assert victim.read_text() == VICTIM
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]


def test_cve_2019_14271_nothing_of_the_image_is_loaded(engine, host, tmp_path, user):
    """``docker cp`` entered the container and then loaded its libnss, as root of the host.

    Every module and library that init could look for lies in wait here, where the host has its own.
    """
    trap = "open('/tmp/sprung', 'a').write(__name__)"
    library = os.path.dirname(os.__file__)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__import__("pytest_capsule").__file__)))
    names = sorted({*sys.stdlib_module_names, "sitecustomize", "usercustomize", "pytest_capsule"})
    with engine.run("capsule/host", command=[]) as container:
        script = f"""
            mkdir -p {library} {package} && cd {library} &&
            for name in {" ".join(names)}; do rm -rf $name {package}/$name; done
            rm -rf {library}/* ; for name in {" ".join(names)}; do
            echo "{trap}" >{library}/$name.py; mkdir -p {package}; echo "{trap}" >{package}/$name.py; done
            rm -f /lib/*/libnss_* /usr/lib/*/libnss_*"""
        container.exec(["sh", "-c", script])
        assert trap in container.read_text(f"{library}/encodings.py")
        before = _mapped(container)
        (tmp_path / "file").write_text("content")
        container.copy_in(tmp_path / "file", "/srv/new/file")
        container.exec(["ln", "-s", "new", "/srv/link"], check=True)
        container.copy_out("/srv/new", tmp_path / "out")
        container.copy_out("/srv/link", tmp_path / "link")
        container.exec(["/bin/true"], user=user, env={"Ä": "ö"})
        for wrong in ({"user": "nobody-there"}, {"workdir": "/proc/self/fd/3"}, {"env": {"A=B": "\udcff"}}):
            with pytest.raises((CapsuleError, ValueError)):
                container.exec(["/bin/true"], **wrong)
        with pytest.raises(CapsuleError):
            container.exec(["no such program"])
        with pytest.raises(OSError):
            container.read_text("/nowhere/\udcff")
        with pytest.raises(OSError):
            container.connect(1)
        assert container.popen(["/bin/true"], tty=True).wait(20) == 0
        assert container.diff()
        container.commit()
        assert not container.exists("/tmp/sprung")
        assert _mapped(container) == before


def _mapped(container):
    """The files that init has mapped, as the host's root sees them; nobody else may look."""
    if os.geteuid() != 0:
        return set()
    with open(f"/proc/{container.init_pid}/maps") as maps:
        return {tuple(line.split(maxsplit=5)[3:]) for line in maps if "/" in line}


@pytest.mark.identities("range")
def test_cve_2014_8989_who_has_a_range_has_no_more_than_root_gave(host):
    """With one, root lets a user leave groups, by newgidmap(1): but become only those of the range."""
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        rows = [line.split() for line in host.exec(["cat", f"/proc/self/{kind}_map"]).stdout.splitlines()]
        lines = [line.strip().split(":") for line in Path(f"/etc/sub{kind}").read_text().splitlines()]
        (given,) = [line[1:] for line in lines if line[0] in (getpass.getuser(), str(os.getuid()))]
        assert rows == [["0", str(own), "1"], ["1", *given]]
    beyond = f"import os; os.setgroups([{int(given[1]) + 1}])"
    assert "Invalid argument" in host.exec(["python3", "-c", beyond]).stderr


@pytest.mark.identities("single")
def test_cve_2014_8989_nobody_gets_rid_of_a_group(host):
    """A file that a group may not read could be read by who left the group in a user namespace."""
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        assert host.exec(["cat", f"/proc/self/{kind}_map"]).stdout.split() == ["0", str(own), "1"]
    assert host.exec(["cat", "/proc/self/setgroups"]).stdout == "deny\n"
    assert "PermissionError" in host.exec(["python3", "-c", "import os; os.setgroups([])"]).stderr
