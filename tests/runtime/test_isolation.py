"""What a command inside sees and may do: no more than in Docker, and nothing of the host or of another container."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import stat
import sys
from pathlib import Path

import pytest

from pytest_capsule.errors import ContainerError, UsageError

DOCKERS_14 = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
).split()
NUMBERS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_ADMIN": 21,
    "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31,
}  # fmt: skip


def mask(*names):
    return sum(1 << NUMBERS[name] for name in names)


def status(container, **options):
    text = container.exec(["cat", "/proc/self/status"], **options).stdout
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def capabilities(container):
    return {name: int(value, 16) for name, value in status(container).items() if name.startswith("Cap")}


@pytest.fixture
def two(engine):
    with engine.run("capsule/host", command=[]) as one, engine.run("capsule/host", command=[]) as other:
        yield one, other


# -- two containers ---------------------------------------------------------------------------------------------------


@pytest.mark.identities("root")  # without root nobody may look at the namespaces of an init
def test_two_containers_share_no_namespace(two, census):
    one, other = (census.of(container.init_pid) for container in two)
    outside = census.of(os.getpid())
    for kind in one:
        assert len({one[kind], other[kind], outside[kind]}) == 3, kind


def test_files_of_one_are_none_of_the_others(two):
    one, other = two
    one.write_text("/tmp/mine", "")
    one.write_text("/dev/shm/mine", "")
    assert not other.exists("/tmp/mine")
    assert not other.exists("/dev/shm/mine")
    assert not os.path.exists("/dev/shm/mine")


def test_processes_of_one_are_none_of_the_others(two):
    one, other = two
    process = one.popen(["sleep", "12345"])
    command = f"/proc/{process.pid}/cmdline"
    assert one.exec(["cat", command]).stdout == "sleep\00012345\0"
    assert "sleep" not in other.exec(["cat", command]).stdout
    for container in two:
        pids = [int(name) for name in container.listdir("/proc") if name.isdigit()]
        assert max(pids) < 10
    assert "12345" not in "".join(" ".join(process["command"]) for process in other.top())


def test_the_same_port_in_both(two, eventually):
    answers = []
    for number, container in enumerate(two):
        container.write_text("/srv/index.html", f"container {number}")
        container.popen(["python3", "-m", "http.server", "8000", "--directory", "/srv"], stdout=None, stderr=None)
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/').read().decode())"
    for container in two:
        eventually(lambda container=container: container.exec(["python3", "-c", ask]).exit_code == 0)
        answers.append(container.exec(["python3", "-c", ask]).stdout)
        with container.connect(8000) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200" in sock.recv(100)
    assert answers == ["container 0\n", "container 1\n"]


def test_a_server_on_ipv6_alone_is_reached(host, eventually):
    serve = "import socket; s = socket.create_server(('::1', 8000), family=socket.AF_INET6); print('up', flush=True)\n"
    serve += "while True: c, _ = s.accept(); c.sendall(b'six'); c.close()"
    process = host.popen(["python3", "-c", serve])
    assert process.stdout.readline() == "up\n"
    with host.connect(8000) as sock:
        assert sock.recv(10) == b"six"
    process.kill()
    with pytest.raises(ConnectionRefusedError):
        host.connect(8001)


def test_system_v_and_posix_ipc_are_apart(two):
    one, other = two
    make = "import ctypes; libc = ctypes.CDLL(None); "
    make += "print(libc.shmget(4711, 100, 0o1666), libc.mq_open(b'/q', 0o102, 0o600, None))"
    assert "-1" not in one.exec(["python3", "-c", make]).stdout
    look = "import ctypes; print(ctypes.CDLL(None).shmget(4711, 100, 0))"
    assert one.exec(["python3", "-c", look]).stdout != "-1\n"
    assert other.exec(["python3", "-c", look]).stdout == "-1\n"
    assert (one.listdir("/dev/mqueue"), other.listdir("/dev/mqueue")) == (["q"], [])


def test_the_hostname_is_its_own(engine, host):
    with engine.run("capsule/host", command=[], hostname="named") as container:
        for command in (["hostname"], ["cat", "/etc/hostname"], ["uname", "-n"]):
            assert container.exec(command).stdout == "named\n"
        assert "named" in container.read_text("/etc/hosts")
    assert host.exec(["uname", "-n"]).stdout == f"{host.id[:12]}\n" != f"{socket.gethostname()}\n"


# -- init -------------------------------------------------------------------------------------------------------------


def test_init_is_pid_one_and_out_of_reach(host):
    assert host.read_text("/proc/1/comm") == "init\n"
    for path in ("exe", "root", "cwd", "fd/3"):
        assert host.exec(["readlink", f"/proc/1/{path}"]).exit_code == 1, path
    for path in ("environ", "mem", "maps", "syscall"):
        refused = host.exec(["cat", f"/proc/1/{path}"])
        assert (refused.exit_code, refused.stdout) == (1, ""), path
    attach = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())"
    )
    assert host.exec(["python3", "-c", attach]).stdout == "-1 1\n"
    steal = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
    steal += "print(libc.syscall(438, os.pidfd_open(1), 3, 0), ctypes.get_errno())"  # pidfd_getfd
    assert host.exec(["python3", "-c", steal]).stdout == "-1 1\n"


def test_nobody_inside_can_kill_or_stop_init(host):
    for number in ("KILL", "STOP", "TERM", "CHLD", "INT", "USR1", "HUP"):
        host.exec(["sh", "-c", f"kill -{number} 1"])
    assert host.exec(["echo", "init lives"]).stdout == "init lives\n"


def test_init_reaps_orphans(host, eventually):
    host.exec("(sh -c 'exit 3' &) ; (sleep 0 &)")
    eventually(lambda: [one["name"] for one in host.top()] == ["init"])


def test_a_script_that_runs_the_program_of_init_gets_no_hold_of_it(host):
    """CVE-2019-5736: ``#!/proc/self/exe`` runs what forked the command, which must not be writable through it."""
    host.write_text("/tmp/evil", "#!/proc/self/exe\nimport os\nos.open('/proc/self/exe', os.O_WRONLY)\n")
    host.exec("chmod +x /tmp/evil")
    assert host.exec(["/tmp/evil"]).exit_code != 0


# -- a command --------------------------------------------------------------------------------------------------------


def test_capabilities_are_dockers(host):
    sets = capabilities(host)
    assert sets.pop("CapInh") == sets.pop("CapAmb") == 0
    assert set(sets.values()) == {mask(*DOCKERS_14)}


def test_capabilities_can_be_added_and_dropped(engine):
    for options, expected in (
        ({"cap_add": ["NET_ADMIN"]}, mask(*DOCKERS_14, "NET_ADMIN")),
        ({"cap_drop": ["CAP_KILL", "mknod"]}, mask(*DOCKERS_14) & ~mask("KILL", "MKNOD")),
        ({"cap_drop": ["ALL"]}, 0),
        ({"cap_drop": ["ALL"], "cap_add": ["CHOWN"]}, mask("CHOWN")),
    ):
        with engine.run("capsule/host", command=[], **options) as container:
            sets = capabilities(container)
            assert {sets["CapPrm"], sets["CapEff"], sets["CapBnd"]} == {expected}, options
            container.write_text("/tmp/file", "init still writes")
            container.exec("true", check=True)
    with pytest.raises(UsageError, match="NONSENSE"):
        engine.run("capsule/host", command=[], cap_add=["NONSENSE"])


def test_no_new_privileges(host, engine):
    assert status(host)["NoNewPrivs"].strip() == "1"
    with engine.run("capsule/host", command=[], privileged=True) as container:
        assert status(container)["NoNewPrivs"].strip() == "0"
        assert capabilities(container)["CapEff"] >= mask("SYS_ADMIN", "NET_ADMIN", *DOCKERS_14)
        container.exec("mkdir /tmp/m && mount -t tmpfs none /tmp/m", check=True)


def test_signals_are_as_a_shell_expects_them(host):
    found = status(host)
    assert [int(found[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
    trap = "import signal; print([s.name for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN])"
    assert host.exec(["python3", "-c", trap]).stdout == "['SIGPIPE', 'SIGXFSZ']\n"  # Python's own doing


def test_a_command_has_three_descriptors_and_dockers_umask(host):
    script = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1]); os.umask(os.umask(0))"
    assert host.exec(["python3", "-c", script]).stdout == "[0, 1, 2]\n"
    assert host.exec("umask").stdout == "0022\n"


def test_a_command_leads_its_own_session(host):
    script = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())"
    assert host.exec(["python3", "-c", script]).stdout == "True\n"


def test_groups_of_who_runs_the_tests_stay_outside(host, identity):
    inside = host.exec(["id", "-G"]).stdout.split()
    assert inside[0] == "0"
    if identity != "single":
        assert inside == ["0"]


def test_nobody_is_without_the_own_group_as_an_additional_one(host, identity):
    """CVE-2022-36109: what a group may not do, its members could by a setgid program."""
    users = ["0:0"] if identity == "single" else ["0:0", "1234:5678", "nobody"]
    for user in users:
        found = status(host, user=user)
        if identity != "single":  # who has one id keeps those of whoever runs the tests: setgroups(2) is denied
            assert found["Gid"].split()[0] in found["Groups"].split()


def test_any_user_may_listen_on_port_80(host, identity):
    """As in Docker since 20.10."""
    user = None if identity == "single" else "nobody"
    bind = "import socket; socket.create_server(('127.0.0.1', 80))"
    host.exec(["python3", "-c", bind], user=user, check=True)
    assert host.read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start") == "0\n"
    if identity == "root":
        assert host.read_text("/proc/sys/net/ipv4/ping_group_range").split() == ["0", "2147483647"]


def test_the_keys_of_who_runs_the_tests_stay_outside(engine):
    """A session keyring is inherited; the filter hides it, but a privileged container has none."""
    libc = ctypes.CDLL(None)
    number = 250 if os.uname().machine == "x86_64" else 219
    get_session_keyring = f"libc.syscall({number}, 0, -3, 0)"
    ours = eval(get_session_keyring, {"libc": libc})
    script = f"import ctypes; libc = ctypes.CDLL(None); print({get_session_keyring})"
    with engine.run("capsule/host", command=[], privileged=True) as container:
        theirs = int(container.exec(["python3", "-c", script], check=True).stdout)
    assert theirs > 0
    assert theirs != ours


# -- its filesystem ---------------------------------------------------------------------------------------------------


def own_mounts(container):
    found = {}
    for line in container.exec(["cat", "/proc/self/mountinfo"]).stdout.splitlines():
        left, right = line.split(" - ")
        found[left.split()[4]] = (right.split()[0], set(left.split()[5].split(",")))
    return found


def test_the_kernels_files_are_read_only(host):
    found = own_mounts(host)
    for path in ("/sys", "/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"):
        if path in found or os.path.exists(path):
            assert "ro" in found[path][1], path
    assert "Read-only" in host.exec("echo 1 >/proc/sys/kernel/randomize_va_space").stderr
    assert "Read-only" in host.exec("mkdir /sys/x").stderr


def test_masked_files_show_nothing(host):
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/latency_stats"):
        if os.path.exists(path):
            assert host.exec(["head", "-c", "1", path], text=False).stdout == b"", path
    for path in ("/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"):
        if os.path.isdir(path):
            assert host.listdir(path) == [], path


def test_mounts_cannot_be_undone(host):
    for command in ("umount /proc/sys", "umount /sys", "mount -o remount,rw /sys", "umount /proc/keys", "umount /dev"):
        assert host.exec(command).exit_code != 0, command
    assert host.exec("unshare --mount true").exit_code != 0


def test_dev_is_dockers(host):
    links = {"fd": "/proc/self/fd", "ptmx": "pts/ptmx"}
    if os.path.exists("/proc/kcore"):
        links["core"] = "/proc/kcore"
    links.update(stdin="/proc/self/fd/0", stdout="/proc/self/fd/1", stderr="/proc/self/fd/2")
    devices = ["full", "null", "random", "tty", "urandom", "zero"]
    assert host.listdir("/dev") == sorted([*links, *devices, "mqueue", "pts", "shm"])
    for name, target in links.items():
        assert host.exec(["readlink", f"/dev/{name}"]).stdout.strip() == target
    assert (
        host.exec(["stat", "-c", "%a %F", *[f"/dev/{name}" for name in devices]]).stdout
        == "666 character special file\n" * 6
    )
    assert (
        host.exec("echo x >/dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c").stdout == "2\n3\n"
    )
    assert "No space left" in host.exec(["dd", "if=/dev/zero", "of=/dev/full", "count=1"]).stderr


def test_a_privileged_container_has_the_hosts_devices(engine, identity):
    devices = {name for name in os.listdir("/dev") if stat.S_ISCHR(os.lstat(f"/dev/{name}").st_mode)} - {"console"}
    with engine.run("capsule/host", command=[], privileged=True) as container:
        inside = set(container.listdir("/dev"))
        ours = os.R_OK | os.W_OK
        missing = {name for name in devices - inside if identity == "root" or os.access(f"/dev/{name}", ours)}
        assert not missing - {"ptmx"}
        assert "console" not in inside
        if identity == "root":
            mine, theirs = os.stat("/dev/kmsg"), container.exec(["stat", "-c", "%a %t %T", "/dev/kmsg"]).stdout.split()
            assert [stat.S_IMODE(mine.st_mode), os.major(mine.st_rdev), os.minor(mine.st_rdev)] == [
                int(theirs[0], 8), int(theirs[1], 16), int(theirs[2], 16),
            ]  # fmt: skip
            container.exec("mknod /dev/mine c 1 3 && echo x >/dev/mine", check=True)


def test_no_device_can_be_made_that_works(engine, tmp_path):
    """Docker lets root make device nodes, and its cgroup keeps it from opening them; here no mount knows devices."""
    with engine.run("capsule/host", command=[], volumes=[f"{tmp_path}:/vol"], tmpfs=["/ram"]) as container:
        for folder in ("/tmp", "/dev", "/usr", "/vol", "/ram", "/dev/shm", "/etc"):
            for kind, number in (("c", "1 1"), ("b", "7 0"), ("c", "1 3")):
                made = container.exec(f"mknod {folder}/node {kind} {number} && cat {folder}/node; rm -f {folder}/node")
                assert "ermi" in made.stderr, (folder, made)  # "Operation not permitted" or "Permission denied"


def test_terminals_are_the_containers_own(host):
    found = own_mounts(host)
    assert found["/dev/pts"][0] == "devpts"
    assert host.listdir("/dev/pts") == ["ptmx"]
    process = host.popen(["cat"], tty=True)
    assert host.listdir("/dev/pts") == ["0", "ptmx"]
    process.kill()


def test_dev_shm_is_64_megabytes(host):
    size = host.exec(["python3", "-c", "import os; s = os.statvfs('/dev/shm'); print(s.f_blocks * s.f_frsize)"]).stdout
    assert int(size) == 64 << 20
    assert host.exec(["stat", "-c", "%a", "/dev/shm"]).stdout == "1777\n"


def test_nothing_of_the_host_shows(host, tmp_path):
    (tmp_path / "secret").write_text("secret")
    assert not host.exists(tmp_path / "secret")
    # The running Python is there wherever it lives, and nothing else of a folder that leads to it.
    ways = {part for prefix in {sys.prefix, sys.base_prefix} for part in Path(prefix).parents}
    for folder in ("/home", "/tmp"):
        assert set(host.listdir(folder)) <= {way.name for way in ways if way.parent == Path(folder)}, folder
    found = own_mounts(host)
    assert found["/"][0] == "overlay"
    assert not [point for point in found if str(tmp_path) in point]
    assert host.exec("ls /proc/1/root/ /proc/1/cwd/").exit_code != 0
    assert host.exec("cd ..; cd ../..; pwd").stdout == "/\n"


def test_a_chroot_out_of_a_directory_opened_before_finds_only_the_container(host):
    escape = "import os\nos.mkdir('/tmp/jail')\nfd = os.open('/', os.O_RDONLY)\nos.chroot('/tmp/jail')\nos.fchdir(fd)\n"
    escape += "for _ in range(50): os.chdir('..')\nos.chroot('.')\nprint(open('/etc/hostname').read())"
    assert host.exec(["python3", "-c", escape]).stdout.strip() == host.read_text("/etc/hostname").strip()


def test_read_only(engine):
    with engine.run("capsule/host", command=[], read_only=True, tmpfs=["/run/app"]) as container:
        for path in ("/file", "/usr/file", "/etc/file", "/opt/file", "/etc/hosts"):
            assert "Read-only" in container.exec(["touch", path]).stderr
        with pytest.raises(OSError, match="Read-only"):
            container.write_text("/file", "")
        container.exec("touch /run/app/file /dev/shm/file && echo >/dev/null", check=True)


def test_tmpfs_with_options(engine):
    mounted = {"/ram": "size=1m,mode=700,exec", "/plain": "", "/locked": "ro"}
    with engine.run("capsule/host", command=[], tmpfs=mounted) as container:
        found = own_mounts(container)
        assert found["/ram"][0] == found["/plain"][0] == "tmpfs"
        assert "noexec" not in found["/ram"][1]
        assert {"noexec", "nosuid", "nodev"} <= found["/plain"][1]
        assert container.exec("stat -c %a /ram /plain").stdout == "700\n1777\n"
        assert "No space left" in container.exec("head -c 2000000 /dev/zero >/ram/file").stderr
        assert "Read-only" in container.exec("touch /locked/file").stderr
    with pytest.raises(UsageError, match="nonsense"):
        engine.run("capsule/host", command=[], tmpfs={"/ram": "nonsense"})


def test_volumes(engine, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("outside")
    (tmp_path / "single").write_text("one file")
    volumes = [f"{tmp_path}/data:/data", f"{tmp_path}/data:/locked:ro", f"{tmp_path}/single:/etc/single:ro"]
    with engine.run("capsule/host", command=[], volumes=volumes) as container:
        assert container.exec("cat /data/file /locked/file /etc/single").stdout == "outsideoutsideone file"
        container.exec("echo inside >/data/made", check=True)
        for path in ("/locked/x", "/etc/single"):
            assert "Read-only" in container.exec(f"echo >{path}").stderr
        assert container.read_text("/locked/made") == "inside\n"
        assert container.diff() == [] or not [change for change in container.diff() if "made" in change.path]
    assert (tmp_path / "data" / "made").read_text() == "inside\n"
    with pytest.raises(UsageError, match="does not exist"):
        engine.run("capsule/host", command=[], volumes=[f"{tmp_path}/none:/x"])


def test_a_volume_goes_where_no_link_of_the_image_leads(engine, host, tmp_path):
    host.exec("ln -s ../../../../../../../../../tmp/aim /srv/link; ln -s /proc/self/fd/1 /srv/magic")
    image = host.commit()
    with engine.run(image, command=[], volumes=[f"{tmp_path}:/srv/link/dir"]) as container:
        assert container.listdir("/tmp/aim/dir") == []
    with pytest.raises(ContainerError, match="/srv/magic"):
        engine.run(image, command=[], volumes=[f"{tmp_path}:/srv/magic"])


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_image_whose_proc_is_a_link_is_refused(engine, debian_rootfs, tmp_path, name):
    (tmp_path / "root" / "etc").mkdir(parents=True)
    os.symlink("/tmp", tmp_path / "root" / name)
    with pytest.raises(ContainerError, match=f"/{name} is not a directory"):
        engine.run(f"rootfs:{tmp_path}/root", command=[])


def test_an_image_whose_etc_hosts_is_a_link_leads_nowhere(engine, tmp_path):
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "victim").write_text("untouched")
    os.symlink(f"../../../../../../../../../../{tmp_path}/victim", tmp_path / "root" / "etc" / "hosts")
    with engine.run(f"rootfs:{tmp_path}/root", command=[]) as container:
        assert "localhost" in container.read_text("/etc/hosts")
    assert (tmp_path / "victim").read_text() == "untouched"


def test_extra_hosts(engine):
    with engine.run("capsule/host", command=[], extra_hosts={"backend": "10.1.2.3", "six": "fd00::1"}) as container:
        hosts = container.read_text("/etc/hosts")
        assert re.search(r"^10\.1\.2\.3\s+backend$", hosts, re.MULTILINE)
        assert container.exec(["getent", "hosts", "six"]).stdout.split() == ["fd00::1", "six"]
