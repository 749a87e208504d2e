"""A debootstrapped Debian with three layers on top, through a registry: to another store, to skopeo and to podman."""

import json
import shutil
import subprocess
import tempfile

import pytest
from peers import peer

from pytest_capsule import Engine

DOCKERFILE = """\
FROM debian:test
RUN rm -r /usr/share/doc && mkdir /made && printf 'one\\n' > /made/one && chmod 4755 /made/one
COPY file /made/two
RUN ln /made/two /made/three && ln -s two /made/four && chown 1:2 /made/two && rm /etc/issue
CMD ["cat", "/made/two"]
"""
LIST = "find / -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' -printf '%p %y %m %U %G %s %l %T@\\n'"
# What a runtime gives every container, whatever its image has.
OWN = ("/etc/hosts", "/etc/hostname", "/etc/mtab", "/etc/resolv.conf", "/run/.containerenv")


def listed(text):
    """Entries of a file system by path; the sizes and times of directories are their file system's own business."""
    found = {}
    for line in text.splitlines():
        path, kind, *rest = line.split(" ")
        if path not in ("/", "/run", "/etc", "/tmp", *OWN):
            found[path] = (kind, *rest) if kind != "d" else (kind, *rest[:3])
    return found


def run(*command):
    done = subprocess.run([peer(command[0]), *command[1:]], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pushed(docker_registry, debian_tar, tmp_path, home):
    """The image's name in the registry, its digest, and what is in it."""
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_text("two\n")
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    name = f"{docker_registry.host}/debian:built"
    with Engine(tmp_path / "builder") as engine:
        engine.tag(f"rootfs:{debian_tar}", "debian:test")
        image = engine.build(tmp_path / "context")
        digest = engine.push(image, name)
        with engine.run(image, command=[]) as container:
            return name, digest, listed(container.exec(LIST, check=True).stdout)


def test_it_comes_back_entry_by_entry(pushed, tmp_path):
    name, digest, entries = pushed
    assert len(entries) > 3000
    assert entries["/made/one"][:2] == ("f", "4755")
    assert "/usr/share/doc" not in entries
    assert "/etc/issue" not in entries
    with Engine(tmp_path / "other", pull="missing") as engine, engine.run(name, command=[]) as container:
        assert container.image.digest == digest
        assert len(container.image.layers) == 4
        assert listed(container.exec(LIST, check=True).stdout) == entries


def test_skopeo_and_podman_take_it_and_give_it_back(pushed, docker_registry, tmp_path):
    name, digest, _ = pushed
    described = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}"))
    assert described["Digest"] == digest
    assert len(described["Layers"]) == 4
    copy = f"{docker_registry.host}/copied:1"
    run(
        "skopeo",
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        f"docker://{name}",
        f"docker://{copy}",
    )
    with Engine(tmp_path / "other") as engine:
        assert engine.pull(copy).digest == digest
        with engine.run(copy) as container:
            assert container.wait(timeout=120) == 0
            assert container.logs() == "two\n"


@pytest.fixture
def podman(tmp_path):
    """The words of a podman on a storage of the test's own, which is removed."""
    runroot = tempfile.mkdtemp()  # podman refuses a long one
    words = (
        "podman", "--root", f"{tmp_path}/podman", "--runroot", runroot, "--tmpdir", f"{tmp_path}/podman-tmp",
        "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
    )  # fmt: skip
    yield words
    subprocess.run([*words, "unshare", "rm", "-rf", f"{tmp_path}/podman", runroot], capture_output=True, check=False)
    shutil.rmtree(f"{tmp_path}/podman", ignore_errors=True)
    shutil.rmtree(runroot, ignore_errors=True)


@pytest.mark.identities("root")
def test_what_podman_unpacks_and_packs_again_is_the_same(pushed, docker_registry, podman, tmp_path):
    name, _, entries = pushed
    run(*podman, "pull", "-q", "--tls-verify=false", name)
    theirs = f"{docker_registry.host}/theirs:1"
    run(*podman, "push", "-q", "--tls-verify=false", name, theirs)
    with Engine(tmp_path / "other") as engine, engine.run(engine.pull(theirs), command=[]) as container:
        assert listed(container.exec(LIST, check=True).stdout) == entries
