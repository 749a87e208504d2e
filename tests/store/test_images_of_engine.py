"""Images through the engine: commit, tag, remove, list; a root filesystem on disk; this machine as an image."""

import os
import stat
import sys

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import CapsuleError, ImageNotFound, UnsupportedHost, UsageError
from pytest_capsule.runtime.supervisor import Supervisor
from pytest_capsule.store import host
from pytest_capsule.store.packing import Packing


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Engine(cache_dir=tmp_path_factory.mktemp("store")) as engine:
        yield engine


def run(engine, image, *command):
    with engine.run(image, command=list(command)) as container:
        code = container.wait(timeout=60)
        return code, container.logs()


def test_commit_keeps_what_a_container_wrote_and_the_container_goes_on(engine):
    with engine.run("capsule/host", command=[]) as container:
        container.exec("mkdir /made && echo x > /made/file && echo y > /usr/local/added && rm /usr/bin/env", check=True)
        image = container.commit("snap:1", command=["cat", "/made/file"], env={"ADDED": "yes"})
        container.exec("echo later > /made/file", check=True)
    assert image.tags == ("snap:1",)
    assert image.config.config.env_dict()["ADDED"] == "yes"
    assert len(image.layers) == len(engine.image("capsule/host").layers) + 1
    with engine.run("snap:1") as container:
        assert container.wait(timeout=60) == 0
        assert container.logs() == "x\n"
        assert container.read_text("/usr/local/added") == "y\n"
        assert not container.exists("/usr/bin/env")
    assert os.path.exists("/usr/bin/env")
    assert not engine.history(image)[0].empty_layer


def test_a_folder_of_the_host_is_read_through_again_only_when_it_has_changed(tmp_path, eventually, monkeypatch):
    folder = tmp_path / "fs"
    folder.mkdir()
    (folder / "file").write_text("one")
    with Engine(cache_dir=tmp_path / "cache") as engine:
        read = []
        work = Packing._work
        monkeypatch.setattr(Packing, "_work", lambda *args, **more: read.append(args[1:]) or work(*args, **more))

        def id_and_reads():
            read.clear()
            return engine.image(f"rootfs:{folder}").id, len(read)

        first, reads = id_and_reads()
        assert reads == 1
        # What has changed this very moment may change once more in it, so only later is what was read kept.
        assert eventually(lambda: id_and_reads() == (first, 0))
        times = (folder / "file").stat()
        (folder / "file").write_text("two")
        os.utime(folder / "file", ns=(times.st_atime_ns, times.st_mtime_ns))
        second, reads = id_and_reads()
        assert (second != first, reads) == (True, 1)


def test_commit_of_nothing_makes_no_layer(engine):
    with engine.run("capsule/host", command=[]) as container:
        image = container.commit()
    assert image.layers == engine.image("capsule/host").layers
    assert engine.history(image)[0].empty_layer
    assert engine.image(image.short_id) == image


def test_no_home_is_shown_for_the_sake_of_a_python_in_it(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "home"))
    with Engine(cache_dir=tmp_path / "cache") as engine:
        with pytest.raises(UnsupportedHost, match="since the running Python lives there"):
            engine.run("capsule/host")
        assert host.NAME not in [name for image in engine.images() for name in image.tags]
        with engine.run("hello-world") as container:
            assert container.wait(timeout=60) == 0


def test_names_come_and_go(engine):
    with engine.run("capsule/host", command=["true"]) as container:
        image = engine.commit(container, "named", env={"FOR": "names"})
    assert engine.tag("named", "also/named:2").tags == ("also/named:2", "named:latest")
    assert image.id in [one.id for one in engine.images()]
    engine.remove("named")
    with pytest.raises(ImageNotFound, match="no image 'named'") as caught:
        engine.image("named")
    assert "also/named:2" in caught.value.hint
    assert engine.image("also/named:2") == image
    engine.remove(image.short_id)
    with pytest.raises(ImageNotFound):
        engine.image("also/named:2")
    assert image.id not in [one.id for one in engine.images()]


def test_what_is_no_image(engine):
    for reference in ("nothing", "nothing:1", "scratch"):
        with pytest.raises(ImageNotFound) as caught:
            engine.image(reference)
        assert caught.value.hint
    with pytest.raises(CapsuleError, match="NOT"):
        engine.image("NOT A REFERENCE")


def test_a_root_filesystem_as_a_tar(engine, debian_tar):
    assert run(engine, f"rootfs:{debian_tar}", "sed", "-n", "s/^ID=//p", "/etc/os-release") == (0, "debian\n")
    assert engine.image(f"rootfs:{debian_tar}").id == engine.image(f"rootfs:{debian_tar}").id


@pytest.mark.identities("root")
def test_a_root_filesystem_as_a_folder_is_not_written_to(engine, debian_rootfs):
    before = os.stat(debian_rootfs / "etc").st_mtime_ns
    assert run(engine, f"rootfs:{debian_rootfs}", "sh", "-c", "echo x > /etc/new && rm /etc/issue && ls /etc/new") == (
        0,
        "/etc/new\n",
    )
    assert os.stat(debian_rootfs / "etc").st_mtime_ns == before
    assert (debian_rootfs / "etc/issue").exists()


@pytest.mark.identities("range", "single")
def test_a_root_filesystem_of_somebody_else_is_refused_with_the_way_out(engine, debian_rootfs):
    with pytest.raises(UsageError, match="belongs to another user") as caught:
        engine.image(f"rootfs:{debian_rootfs}")
    assert f"tar -C {debian_rootfs}" in caught.value.hint


def test_what_is_no_root_filesystem(engine, tmp_path):
    with pytest.raises(ImageNotFound, match="no such directory or tar"):
        engine.image(f"rootfs:{tmp_path / 'missing'}")
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(UsageError, match="neither a directory nor a tar"):
        engine.image(f"rootfs:{tmp_path / 'text'}")


# -- capsule/host ----------------------------------------------------------------------------------------------------


def test_the_host_without_what_is_somebodys(engine):
    with engine.run("capsule/host", command=[]) as container:
        for empty in ("/home", "/tmp", "/root", "/mnt", "/media", "/srv", "/boot", "/var/log", "/var/tmp"):
            within = [name for name in container.listdir(empty) if not sys.prefix.startswith(f"{empty}/{name}")]
            assert [name for name in within if not sys.base_prefix.startswith(f"{empty}/{name}")] == [], empty
        assert container.listdir("/run") == []
        assert (
            stat.S_IMODE(container._call({"op": "stat", "path": "/tmp", "follow": False})[0]["stat"]["mode"]) == 0o1777
        )


def test_nothing_that_only_root_may_read_is_in_its_etc(engine):
    with engine.run("capsule/host", command=[]) as container:
        assert container.exists("/etc/passwd")
        for secret in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private"):
            assert not container.exists(secret)
        listed = container.exec("find /etc ! -perm -o=r ! -type l", check=True).stdout
    assert listed == ""


def test_its_etc_has_every_public_file(engine):
    public = [
        os.path.join(folder, name)
        for folder, _, names in os.walk("/etc/apt" if os.path.isdir("/etc/apt") else "/etc/ssl")
        for name in names
        if os.stat(os.path.join(folder, name)).st_mode & 0o004
    ]
    with engine.run("capsule/host", command=[]) as container:
        assert [path for path in public if not container.exists(path)] == []


def test_writes_never_reach_the_host(engine):
    before = {path: os.stat(path).st_mtime_ns for path in ("/usr/bin", "/usr/local", "/etc")}
    with engine.run("capsule/host", command=[]) as container:
        container.exec(
            "touch /usr/bin/written /usr/local/written /etc/written && rm /usr/bin/env && mkdir /usr/new", check=True
        )
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    assert not os.path.lexists("/usr/bin/written")


def test_the_running_python_works_inside(engine):
    program = "import sys, ssl, json; print(sys.version_info[:3], sys.prefix)"
    code, printed = run(engine, "capsule/host", sys.executable, "-c", program)
    assert (code, printed) == (0, f"{sys.version_info[:3]} {sys.prefix}\n")


def test_its_key_follows_the_packages_of_the_machine(tmp_path, monkeypatch):
    state = tmp_path / "status"
    state.write_text("one package")
    monkeypatch.setattr(host, "_PACKAGE_STATE", (str(state),))
    before = host._state(("/usr",), foreign=False)
    assert host._state(("/usr",), foreign=False) == before
    assert host._state(("/usr",), foreign=True) != before
    state.write_text("two packages")
    assert host._state(("/usr",), foreign=False) != before


@pytest.mark.identities("range")
def test_listing_images_starts_no_other_process(tmp_path, monkeypatch):
    with Engine(cache_dir=tmp_path) as engine:
        engine.images()  # makes hello-world, whose layer is measured among the ids of containers
    started = []
    monkeypatch.setattr(Supervisor, "_start", lambda self: started.append(self))
    with Engine(cache_dir=tmp_path) as engine:
        assert engine.images()
    assert started == []
