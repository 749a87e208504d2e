"""What a host can do: on this one, and on hosts that lack something, which namespaces with limits of their own play."""

import errno
import json
import os
import subprocess
import sys
from functools import partial

import pytest
from peers import peer

from pytest_capsule import Engine
from pytest_capsule.runtime import supervisor

NEEDED = [
    "program in memory",
    "user namespace",
    *(f"{name} namespace" for name in ("mount", "PID", "network", "IPC", "UTS", "cgroup")),
    "devices",
    "proc",
    "sysfs",
    "devpts",
    "mqueue",
    "root directory",
    "paths inside a root",
    "process descriptors",
    "container network",
    "seccomp",
    "hello-world",
]
CAPSULE = (sys.executable, "-m", "pytest_capsule")

# An ordinary user of a host on which there may be no namespaces of a kind. The limit is one of this user namespace
# (namespaces(7), /proc/sys/user), and the exec drops the capabilities that it was set with.
ON_POOR_HOST = """
import ctypes, os, sys
limit, uid, *words = sys.argv[1:]
ids = [("uid_map", f"{uid} {os.getuid()} 1"), ("gid_map", f"{uid} {os.getgid()} 1")]
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
    raise OSError(ctypes.get_errno(), "unshare")
for name, text in [("setgroups", "deny"), *ids]:
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
with open(f"/proc/sys/user/{limit}", "w") as file:
    file.write("0")
os.execv(words[0], words)
"""
NOBODY = 4242  # who has no line in /etc/subuid


def on_poor_host(limit, *words, uid=NOBODY, **options):
    command = [sys.executable, "-c", ON_POOR_HOST, limit, str(uid), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_this_host_works(cache, identity):
    with Engine(cache) as engine:
        report = engine.check()
        left = list((engine.cache_dir / "tmp").iterdir())
    assert report.works, report.table()
    assert [ability.name for ability in report.abilities if ability.needed] == NEEDED
    assert identity in report.identity
    assert len(left) == 2  # the engine's own folder and its lock


def test_the_report_of_the_command_line(cache, identity):
    done = subprocess.run([*CAPSULE, "--cache-dir", str(cache), "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("\nContainers work on this host.\n")
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  yes ")]
    assert {"hello-world            Hello from capsule!", "mqueue"} <= {row[1] for row in rows}
    if identity == "single":
        assert "no   users" in done.stdout
        assert "-> " in done.stdout
        assert "usermod --add-subuids" in done.stdout


def test_the_report_as_json(cache):
    done = subprocess.run(
        [*CAPSULE, "--cache-dir", str(cache), "check", "--json"], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["works"] is True
    found = {ability["name"]: ability for ability in report["abilities"]}
    assert found["hello-world"] == {
        "name": "hello-world",
        "works": True,
        "detail": "Hello from capsule!",
        "syscall": "",
        "errno": 0,
        "mend": "",
        "needed": True,
    }


def test_what_this_host_says_of_itself_is_what_containers_find(cache, identity, eventually):
    """Beside the rows, the same asked of a container."""
    with Engine(cache) as engine:
        found = {ability.name: ability for ability in engine.check().abilities}
        with engine.run("capsule/host", command=["sleep", "1000"], memory="64m", cpus=0.5, pids=20) as container:
            limits = {name: limit.how for name, limit in container.limits.items()}
        with engine.run("capsule/host", command=["sleep", "1000"]) as container:
            container.pause()
            if found["freezer"].works:
                assert container.top()[1]["status"] != "stopped"
            else:  # by a signal, which a process takes when it is its turn to run
                eventually(lambda: container.top()[1]["status"] == "stopped")
    assert {name: found[f"limit of {name}"].works for name in limits} == {
        name: how == "enforced" for name, how in limits.items()
    }
    assert found["users"].works == (identity != "single")


def test_a_way_out_is_tried_and_not_only_looked_for(cache, tmp_path, monkeypatch):
    slirp = peer("slirp4netns")
    monkeypatch.setenv("PATH", str(tmp_path))
    with Engine(cache) as engine:
        rows = [way_out(engine)]
        broken = tmp_path / "slirp4netns"
        broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
        broken.chmod(0o755)
        rows.append(way_out(engine))
        broken.unlink()
        broken.symlink_to(slirp)
        rows.append(way_out(engine))
    assert [row.works for row in rows] == [False, False, True]
    assert rows[0].detail.startswith("not installed: ")
    assert rows[0].mend == "apt-get install slirp4netns"
    assert rows[1].detail == "slirp4netns: it is broken"
    assert "/dev/net/tun" in rows[1].mend
    assert rows[2].detail == str(broken)


def way_out(engine):
    return next(ability for ability in engine.check().abilities if ability.name == "way out")


@pytest.mark.parametrize("uid", [NOBODY, os.getuid() or 1000], ids=["nobody", "own id"])
def test_a_host_without_user_namespaces(cache, uid):
    check = [*CAPSULE, "--cache-dir", str(cache), "check"]
    done = on_poor_host("max_user_namespaces", *check, uid=uid)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "NO   user namespace" in done.stdout
    assert "unshare CLONE_NEWUSER: No space left on device (ENOSPC)" in done.stdout
    assert "-> as root: sysctl -w user.max_user_namespaces=15000" in done.stdout
    assert done.stdout.endswith("\nContainers do not work on this host. It lacks: user namespace.\n")

    (refused,) = [
        ability
        for ability in json.loads(on_poor_host("max_user_namespaces", *check, "--json", uid=uid).stdout)["abilities"]
        if ability["needed"] and not ability["works"]
    ]
    assert refused["name"] == "user namespace"
    assert refused["syscall"] == "unshare CLONE_NEWUSER"
    assert refused["errno"] == errno.ENOSPC


@pytest.mark.parametrize("uid", [NOBODY, os.getuid() or 1000], ids=["nobody", "own id"])
def test_running_there_is_one_clear_error(cache, uid):
    run = [*CAPSULE, "--cache-dir", str(cache), "run", "hello-world"]
    done = on_poor_host("max_user_namespaces", *run, uid=uid)
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr == (
        "capsule: this host lets no ordinary user make a user namespace, which containers need without root"
        " (unshare CLONE_NEWUSER: No space left on device)\n"
        "  hint: as root: sysctl -w user.max_user_namespaces=15000\n"
    )


def test_the_engine_says_it_with_fields_and_can_be_closed(cache):
    program = f"""
from pytest_capsule import Engine, UnsupportedHost
with Engine({str(cache)!r}) as engine:
    try:
        engine.run("hello-world")
    except UnsupportedHost as error:
        print(error.syscall, error.errno, error.hint, sep="; ")
"""
    done = on_poor_host("max_user_namespaces", sys.executable, "-c", program)
    assert done.stderr == ""
    assert done.stdout == (
        f"unshare CLONE_NEWUSER; {errno.ENOSPC}; as root: sysctl -w user.max_user_namespaces=15000\n"
    )


@pytest.mark.parametrize(
    ("limit", "name", "call"),
    [
        ("max_net_namespaces", "network namespace", "clone CLONE_NEWNET"),
        ("max_pid_namespaces", "PID namespace", "clone CLONE_NEWPID"),
        ("max_ipc_namespaces", "IPC namespace", "clone CLONE_NEWIPC"),
        ("max_uts_namespaces", "UTS namespace", "clone CLONE_NEWUTS"),
        ("max_cgroup_namespaces", "cgroup namespace", "clone CLONE_NEWCGROUP"),
    ],
)
def test_a_host_without_one_of_the_other_namespaces(cache, limit, name, call):
    done = on_poor_host(limit, *CAPSULE, "--cache-dir", str(cache), "check", "--json")
    assert done.returncode == 1
    abilities = {ability["name"]: ability for ability in json.loads(done.stdout)["abilities"]}
    assert (abilities[name]["syscall"], abilities[name]["errno"]) == (call, errno.ENOSPC)
    assert abilities[name]["mend"] == f"as root: sysctl -w user.{limit}=15000"
    assert not abilities["hello-world"]["works"]
    assert abilities["user namespace"]["works"]

    done = on_poor_host(limit, *CAPSULE, "--cache-dir", str(cache), "run", "hello-world")
    assert done.returncode == 125
    assert call.removeprefix("clone ") in done.stderr
    assert "hint: capsule check tells what is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_without_mount_namespaces(cache):
    done = on_poor_host("max_mnt_namespaces", *CAPSULE, "--cache-dir", str(cache), "run", "hello-world")
    assert done.returncode == 125
    assert "unshare CLONE_NEWNS: No space left on device" in done.stderr


def test_apparmor_that_lets_a_user_namespace_be_made_and_nothing_be_done_in_it(tmp_path, monkeypatch):
    """What Ubuntu does from 24.04 on, with a tree that says so in the place of /proc/sys."""
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "apparmor_restrict_unprivileged_userns").write_text("1\n")
    monkeypatch.setattr(supervisor, "_userns_mend", partial(supervisor._userns_mend, str(tmp_path)))
    ordinary = supervisor.Supervisor(supervisor.Ids("single"), tmp_path)

    said = ordinary._unsupported(PermissionError(errno.EPERM, "Operation not permitted", "/proc/self/uid_map"))

    assert said.message.startswith("this host lets no ordinary user make a user namespace")
    assert said.syscall == "/proc/self/uid_map"
    assert said.hint == "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
