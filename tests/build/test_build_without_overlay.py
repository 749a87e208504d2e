"""Hosts on which the kernel refuses an overlay in memory, on disk, or altogether: the same layers, the same changes.

Played by what an engine remembers of its host.
"""

import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from pytest_capsule import ContainerSpec, Engine
from pytest_capsule.errors import UnsupportedHost

HOSTS = {
    "nothing on disk": {"in_memory": True, "on_disk": False},
    "nothing in memory": {"in_memory": False, "on_disk": True},
    "no overlay": {"in_memory": False, "on_disk": False},
}
DOCKERFILE = """
RUN mkdir /d /d/kept /d/gone /e; echo one > /d/one; echo two > /d/two; echo three > /d/three; \\
 ln /d/one /d/hard && ln -s one /d/link && touch /d/gone/x /e/old && chmod 4751 /d/two && mkfifo /d/fifo
RUN rm /d/two && rm -r /d/gone && echo more >> /d/three && rm -r /e && mkdir /e && touch /e/new && mv /d/kept /d/moved
RUN rm /d/link && mkdir /d/link && rmdir /d/moved && touch /d/moved && rm /etc/issue && chmod 700 /e
COPY --chmod=640 Dockerfile /d/copied
WORKDIR /d/work
RUN true
"""


PROGRAMS = "sh cat chmod echo find ln mkdir mkfifo mv rm rmdir sort touch true".split()


@pytest.fixture(scope="module")
def small_tar(tmp_path_factory):
    """A root filesystem of a few programs of this machine and their libraries: small enough to be copied often."""
    path = tmp_path_factory.mktemp("small") / "small.tar"
    programs = [os.path.realpath(shutil.which(name)) for name in PROGRAMS]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    with tarfile.open(path, "w", dereference=True) as archive:
        for name, program in zip(PROGRAMS, programs, strict=True):
            archive.add(program, f"bin/{name}")
        for library in sorted(set(re.findall(r"(/\S+) \(0x", linked))):
            archive.add(library, library)
        for name, text in (("etc/issue", "old"), ("etc/debian_version", "12"), ("etc/passwd", "root:x:0:0::/:/bin/sh")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name in ("var/mail", "srv", "tmp"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
    return path


def played(cache, host):
    engine = Engine(cache)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    engine._store.remember("stacking", {"boot": boot, **host})
    return engine


@pytest.fixture(scope="module", params=HOSTS.values(), ids=HOSTS.keys())
def poor(request, tmp_path_factory, small_tar):
    """An engine on a host that lacks something, its image of a Debian, and what it lacks."""
    with played(tmp_path_factory.mktemp("poor"), request.param) as engine:
        yield engine


def listed(engine, image, folders):
    """What a container shows beneath some folders, with kind, mode, owner, links, target and content of each."""
    command = (
        f"cd / && find {' '.join(folders)} -type d -printf '%p %m %U:%G\\n' "
        "-o -printf '%p %y %m %U:%G %n %l\\n' | sort; "
        f"for file in $(find {' '.join(folders)} -type f | sort); do echo $file; cat $file; done"
    )
    with engine.run(image, command=[], hostname="same") as container:
        return container.exec(command, check=True).stdout


def shape(layers):
    """The layers of an image as they are on disk: whiteouts, and what each name is."""
    found = []
    for layer in layers:
        names = {}
        for folder, folders, files in os.walk(layer.path):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                info = os.lstat(path)
                is_whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
                names[os.path.relpath(path, layer.path)] = "whiteout" if is_whiteout else stat.S_IFMT(info.st_mode)
        found.append(names)
    return found


def test_a_build_gives_what_it_gives_with_an_overlay(poor, engine, tmp_path, small_tar):
    text = f"FROM rootfs:{small_tar}\n{DOCKERFILE}"
    (tmp_path / "Dockerfile").write_text(text)
    expected = engine.build(tmp_path)
    image = poor.build(tmp_path)
    folders = ("d", "e", "etc")
    assert listed(poor, image, folders) == listed(engine, expected, folders)
    ours, theirs = shape(image.layers[1:]), shape(expected.layers[1:])
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        # A directory made anew is opaque in an overlay; in a copy its old names are deleted, one by one.
        assert {k: v for k, v in one.items() if v != "whiteout" or k in other} == other
        assert set(one.keys() - other.keys()) <= {"e/old"}
    assert poor.build(tmp_path).id == image.id


def test_mounts_leave_only_what_the_command_wrote(poor, tmp_path, small_tar):
    mounts = {
        "type=tmpfs": "/new/x",
        "type=cache": "/srv/c",
        "type=bind,source=Dockerfile": "/one/file",
        f"type=bind,from=rootfs:{small_tar},source=/etc": "/opt/etc",
    }
    flags = " ".join(f"--mount={what},target={target}" for what, target in mounts.items())
    text = f"RUN {flags} cat /one/file > /srv/c/copy; echo a > /written\n"
    text += f"RUN --mount=type=tmpfs,target=/srv/t touch /srv/own\nRUN {flags} true\n"
    (tmp_path / "Dockerfile").write_text(f"FROM rootfs:{small_tar}\n{text}")
    image = poor.build(tmp_path)
    assert [sorted(names) for names in shape(image.layers[1:])] == [["written"], ["srv", "srv/own"]]


@pytest.mark.parametrize("ends", [False, True], ids=["going on", "ending"])
def test_changes_and_commit(poor, small_tar, ends):
    image = poor.image(f"rootfs:{small_tar}")
    with poor.start(ContainerSpec.of(image, command=[]), to_keep=ends) as container:
        assert container.diff() == []
        container.exec(
            "rm /etc/issue; echo new > /srv/new; chmod 600 /etc/passwd; rm -r /var/mail; mkdir /var/mail;"
            " mv /etc/debian_version /etc/moved",
            check=True,
        )
        changes = [str(change) for change in container.diff() if "/etc/host" not in change.path]
        committed = container.commit(end=ends)
    assert changes == [
        "C /etc",
        "D /etc/debian_version",
        "D /etc/issue",
        "A /etc/moved",
        "C /etc/passwd",
        "C /srv",
        "A /srv/new",
        "C /var",
        "C /var/mail",
    ]
    with poor.run(committed, command=[]) as container:
        assert container.read_text("/srv/new") == "new\n"
        assert not container.exists("/etc/issue")
        assert container.exists("/etc/moved")
        assert container.diff() == []


def test_containers_share_nothing_and_leave_nothing(poor, small_tar):
    image = poor.image(f"rootfs:{small_tar}")
    before = list((poor.cache_dir / "tmp").glob("*/*"))
    with poor.run(image, command=[]) as one, poor.run(image, command=[], read_only=True) as other:
        one.write_text("/etc/issue", "mine")
        assert other.read_text("/etc/issue") != "mine"
        assert other.exec("touch /file").exit_code != 0
    with poor.run(image, command=[]) as later:
        assert later.read_text("/etc/issue") != "mine"
    assert list((poor.cache_dir / "tmp").glob("*/*")) == before


def test_the_host_itself_needs_an_overlay(poor):
    if poor._stacking.overlays().in_memory or poor._stacking.overlays().on_disk:
        with poor.run("capsule/host", command=[]) as container:
            container.write_text("/usr/new", "")
            assert [str(change) for change in container.diff()] == ["A /usr/new"]
    else:
        with pytest.raises(UnsupportedHost, match="cannot be shown"):
            poor.run("capsule/host", command=[])


def test_what_works_is_tried_once_a_boot(tmp_path):
    with Engine(tmp_path / "cache") as engine:
        engine.run("hello-world").close()
        found = engine._store.memory("stacking")
        assert (found["in_memory"], found["on_disk"]) == (True, True)
        engine._store.remember("stacking", {**found, "boot": "another", "on_disk": False})
    with Engine(tmp_path / "cache") as engine:
        engine.run("hello-world").close()
        assert engine._store.memory("stacking") == found
