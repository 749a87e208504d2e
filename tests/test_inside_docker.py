"""Inside a Docker container, as the jobs of a CI are: where containers work there, and what mends it where not."""

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers import docker_daemon

import pytest_capsule
from pytest_capsule._linux.capabilities import NAMES

pytestmark = pytest.mark.identities("root")

DEADLINE = 120
# --privileged asks for all capabilities that the kernel knows, and cannot start where this machine, a container or a
# virtual machine itself, was not given one of them. So that one is taken out of what runc is told.
RUNTIME = """#!/bin/sh
for word in "$@"; do
    [ "$last" != --bundle ] || sed -i -E 's/"CAP_(LACKING)",|,"CAP_(LACKING)"//g' "$word/config.json"
    last=$word
done
exec runc "$@"
"""
UNCONFINED = ("--security-opt", "seccomp=unconfined")
UNMASKED = (*UNCONFINED, "--security-opt", "systempaths=unconfined")
HOG = "head -c 1000000000 /dev/zero | tail"  # tail keeps it all: there is no line in it
USER = ("--user", "4242:4242")


def bounding_set():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)


@dataclass(frozen=True)
class Docker:
    """An image with nothing in it, not even /tmp, on which this machine's programs and Python are shown, read-only."""

    client: list[str]

    def capsule(self, options, *words):
        shown = {"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache"}
        shown |= {sys.base_prefix, sys.prefix, str(Path(pytest_capsule.__file__).parents[1])}
        binds = [f"--volume={path}:{path}:ro" for path in sorted(shown) if os.path.exists(path)]
        command = [
            *self.client,
            "run",
            "--rm",
            "--network=none",
            "--runtime=here",
            "--tmpfs=/cache:mode=1777",
            *binds,
        ]
        command += [
            "--env=CAPSULE_CACHE_DIR=/cache",
            f"--workdir={Path(pytest_capsule.__file__).parents[1]}",
            *options,
            "empty",
        ]
        command += [sys.executable, "-m", "pytest_capsule", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    room = tmp_path_factory.mktemp("docker")
    lacking = "|".join(name for number, name in enumerate(NAMES) if not bounding_set() >> number & 1)
    runtime = room / "runtime"
    runtime.write_text(RUNTIME.replace("LACKING", lacking))
    runtime.chmod(0o755)
    with docker_daemon(room, f"--add-runtime=here={runtime}") as client:
        nothing = io.BytesIO()
        tarfile.open(fileobj=nothing, mode="w").close()
        subprocess.run([*client, "import", "-", "empty"], input=nothing.getvalue(), capture_output=True, check=True)
        yield Docker(client)


@pytest.mark.parametrize(
    ("options", "missing", "call"),
    [
        ((), {"user namespace"}, "unshare CLONE_NEWUSER"),
        (USER, {"user namespace"}, "unshare CLONE_NEWUSER"),
        (UNCONFINED, {"proc", "sysfs", "hello-world"}, "mount proc on here"),
        ((*UNCONFINED, *USER), {"proc", "sysfs", "hello-world"}, "mount proc on here"),
        (("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN"), {"root directory", "hello-world"}, "pivot_root ."),
    ],
    ids=["default", "default, user", "unconfined", "unconfined, user", "more capabilities"],
)
def test_where_containers_cannot_run_it_says_what_docker_has_to_be_told(docker, options, missing, call):
    done = docker.capsule(options, "check", "--json")

    assert (done.returncode, done.stderr) == (1, "")
    refused = {found["name"]: found for found in json.loads(done.stdout)["abilities"] if not found["works"]}
    assert {name for name, found in refused.items() if found["needed"]} == missing
    first = next(found for name, found in refused.items() if name in missing)
    assert (first["syscall"], first["errno"]) == (call, errno.EPERM)
    assert "--security-opt systempaths=unconfined" in first["mend"]
    assert "--privileged" in first["mend"]
    assert "--privileged" in refused["limit of memory"]["mend"]


@pytest.mark.parametrize(
    ("options", "identity", "limit"),
    [
        (UNMASKED, "user 0, with a single id", "no"),
        ((*UNMASKED, *USER), "user 4242, with a single id", "no"),
        ((*UNMASKED, "--cap-add=SYS_ADMIN"), "user 0, with a single id", "no"),
        (("--privileged",), "root", "yes"),
        (("--privileged", *USER), "user 4242, with a single id", "no"),
    ],
    ids=["unmasked", "unmasked, user", "half of root", "privileged", "privileged, user"],
)
def test_where_containers_can_run_they_do(docker, options, identity, limit):
    done = docker.capsule(options, "check")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].endswith(f", {identity}")
    assert f"  {limit:<4} limit of memory" in done.stdout
    assert "hello-world            Hello from capsule!" in done.stdout


def test_a_privileged_container_can_limit_its_containers(docker):
    """Where the CI gives each job a container with ``--privileged``, which is the most common of all."""
    done = docker.capsule(("--privileged",), "run", "--memory=64m", "capsule/host", "sh", "-c", HOG)

    assert done.returncode == 137, done.stderr


def test_what_is_mounted_in_a_folder_of_the_machine_is_named(docker):
    done = docker.capsule((*UNMASKED, "--tmpfs=/usr/share/doc"), "run", "capsule/host", "true")

    assert done.returncode == 125
    assert "cannot be set up: Invalid argument" in done.stderr
    assert "beneath which something is mounted, such as /usr/share/doc: mount that elsewhere" in done.stderr


def test_an_image_is_built_on_the_disk_of_a_job_which_is_an_overlay_itself(docker):
    """As in a job of GitLab or Jenkins, where nothing is mounted for the cache."""
    done = docker.capsule((*UNMASKED, "--env=CAPSULE_CACHE_DIR=/disk"), "build", "-q", "examples/web_app")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha256:")
