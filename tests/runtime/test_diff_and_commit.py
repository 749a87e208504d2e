"""``diff`` and ``commit``: what a container has written."""

from __future__ import annotations

import json
import os

import pytest

from pytest_capsule import ContainerSpec
from pytest_capsule.errors import ImageNotFound, UsageError


def lines(container):
    return [str(change) for change in container.diff()]


@pytest.fixture
def base(engine):
    """An image with a few files to change."""
    with engine.run("capsule/host", command=[]) as container:
        container.exec(
            "mkdir -p /srv/dir/inner; cd /srv; echo 1 >changed; echo 1 >removed; echo 1 >dir/a; echo 1 >dir/b; "
            "echo 1 >dir/inner/c; echo 1 >renamed",
            check=True,
        )
        return container.commit()


def test_a_fresh_container_has_changed_nothing(engine, debian_image):
    for image in ("capsule/host", debian_image):
        with engine.run(image, command=[]) as container:
            container.exec("ls / /etc /usr")
            assert lines(container) == []


def test_added_changed_and_deleted(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("cd /srv; echo 2 >changed; rm removed; mkdir new; echo 1 >new/file; mv renamed moved")
        assert lines(container) == [
            "C /srv",
            "C /srv/changed",
            "A /srv/moved",
            "A /srv/new",
            "A /srv/new/file",
            "D /srv/removed",
            "D /srv/renamed",
        ]


def test_a_directory_removed_hides_what_it_held(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("rm -r /srv/dir")
        assert lines(container) == ["C /srv", "D /srv/dir"]


def test_a_directory_made_anew_names_what_it_hides(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("cd /srv; rm -r dir; mkdir dir; echo 2 >dir/b; echo 2 >dir/new")
        assert lines(container) == [
            "C /srv",
            "C /srv/dir",
            "D /srv/dir/a",
            "C /srv/dir/b",
            "D /srv/dir/inner",
            "A /srv/dir/new",
        ]


def test_a_file_added_and_removed_leaves_no_trace(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("echo 1 >/srv/brief; rm /srv/brief")
        assert lines(container) == ["C /srv"]


def test_a_diff_of_a_busy_container(host, eventually):
    process = host.popen("cd /srv; touch /tmp/going; while :; do mkdir -p d/e; echo >d/e/f; rm -r d; done")
    eventually(lambda: host.exists("/tmp/going"))
    for _ in range(50):
        assert "A /tmp/going" in lines(host)
    process.kill()


def test_a_committed_image_has_it_all(engine, base):
    script = r"""
        set -e
        cd /srv
        rm removed; rm -r dir; mkdir dir; echo new >dir/only
        echo linked >one; ln one two; ln -s one soft; mkfifo fifo
        echo x >mode; chmod 4711 mode; mkdir -m 1777 sticky
        touch -d @1000000000.123456789 mode
        printf '' >"$(printf 'caf\351')"
    """
    with engine.run(base, command=[]) as container:
        container.exec(script, check=True)
        container.exec(["python3", "-c", "import os; os.setxattr('/srv/one', 'user.note', b'kept')"], check=True)
        before = container.exec("cd /srv; stat -c '%n %a %u:%g %F' *; ls -a; cat one mode").stdout
        image = container.commit()
        container.write_text("/srv/later", "")
    with engine.run(image, command=[]) as container:
        assert container.exec("cd /srv; stat -c '%n %a %u:%g %F' *; ls -a; cat one mode").stdout == before
        assert container.listdir("/srv/dir") == ["only"]
        assert container.exec("cd /srv; stat -c %i one two | uniq | wc -l; readlink soft").stdout == "1\none\n"
        assert container.exec(["stat", "-c", "%.9Y", "/srv/mode"]).stdout == "1000000000.123456789\n"
        note = "import os; print(os.getxattr('/srv/two', 'user.note'))"
        assert container.exec(["python3", "-c", note]).stdout == "b'kept'\n"
        assert lines(container) == []


WRITE = r"""
import contextlib, os, socket
os.umask(0)
os.chdir("/srv")
os.unlink("removed")
os.system("rm -r dir; mkdir dir; echo new >dir/only")
os.rename("renamed", "moved")
open("changed", "a").write("more")
for name, size in (("empty", 0), ("small", 65536), ("large", 65537), ("larger", 3000000)):
    open(name, "wb").write(os.urandom(size))
with open("sparse", "wb") as sparse:
    sparse.truncate(1 << 22)
    for at in (1 << 20, 3 << 20):
        sparse.seek(at)
        sparse.write(bytes(range(256)) * 16)
open("hole", "wb").truncate(1 << 20)
os.makedirs("deep/er/folder", 0o750)
os.link("small", "deep/linked")
os.link("small", "/usr/local/linked") if os.stat("/usr/local").st_dev == os.stat(".").st_dev else None
os.symlink("/no/where", "dangling")
os.mkfifo("fifo", 0o640)
socket.socket(socket.AF_UNIX).bind("socket")
with contextlib.suppress(PermissionError):  # without root there are no devices
    os.mknod("device", 0o20604, os.makedev(1, 3))
os.mkdir("private", 0o700)
os.mkdir("sticky")
os.chmod("sticky", 0o3777)
for name, mode in (("setuid", 0o4755), ("setgid", 0o2710), ("none", 0)):
    open(name, "w").write(name)
    os.chmod(name, mode)
os.setxattr("setuid", "user.note", b"\0\xff")
os.setxattr("sticky", "user.note", b"of a folder")
open(b"caf\xe9 \n", "w").close()
os.makedirs("/usr/local/share/made/here")
open("/usr/local/share/made/file", "w").write("below a folder of the host")
os.utime("setuid", ns=(1, 1000000000123456789))
os.utime("dangling", ns=(1, 1000000000123456788), follow_symlinks=False)
os.utime("fifo", ns=(1, -5000000003))
for name in ("sticky", "deep/er", "deep", "."):
    os.utime(name, ns=(1, 1000000000987654321))
"""
LOOK = r"""
import hashlib, json, os, stat
found, inodes = {}, {}
def holes(fd, size):
    at = 0
    while at < size:
        try: start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError: return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at
for top in ("/srv", "/usr/local"):
    for folder, folders, names in os.walk(os.fsencode(top)):
        for path in [folder, *(os.path.join(folder, name) for name in names + folders)]:
            info = os.lstat(path)
            line = [info.st_mode, info.st_uid, info.st_gid, info.st_rdev]
            if path != b"/usr/local":
                line.append(info.st_mtime_ns)
            line.append(sorted((key, os.getxattr(path, key, follow_symlinks=False).hex())
                               for key in os.listxattr(path, follow_symlinks=False)))
            if not stat.S_ISDIR(info.st_mode):
                line += [info.st_size, info.st_nlink, inodes.setdefault((info.st_dev, info.st_ino), repr(path))]
            if stat.S_ISLNK(info.st_mode):
                line.append(repr(os.readlink(path)))
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    line += [hashlib.sha256(file.read()).hexdigest(), list(holes(file.fileno(), info.st_size))]
            found[repr(path)] = line
print(json.dumps(found))
"""


@pytest.mark.parametrize("how", ["going on", "ended", "moved"])
def test_a_committed_image_is_the_same_entry_by_entry(engine, base, how):
    with engine.start(ContainerSpec.of(base, command=[]), to_keep=how == "moved") as container:
        container.exec(["python3", "-c", WRITE], check=True)
        before = json.loads(container.exec(["python3", "-c", LOOK], check=True).stdout)
        image = container.commit(end=how != "going on")
        assert (container.status == "removed") == (how != "going on")
    with engine.run(image, command=[]) as other:
        assert json.loads(other.exec(["python3", "-c", LOOK], check=True).stdout) == before
        assert lines(other) == []
    assert {"b'/srv/sparse'", "b'/srv/socket'", "b'/usr/local/share/made/file'"} < before.keys()
    assert before["b'/srv/sparse'"][-1] == [[1 << 20, (1 << 20) + 4096], [3 << 20, (3 << 20) + 4096]]


def test_what_was_started_to_be_kept_is_moved_and_not_copied(engine, debian_image):
    with engine.start(ContainerSpec.of(debian_image, command=[]), to_keep=True) as container:
        container.exec("mkdir /new; echo 1 >/new/file", check=True)
        (writable,) = [overlay.upper for overlay in container.spec.overlays]
        inode = os.stat(f"{writable}/new/file").st_ino
        image = container.commit("kept:moved", end=True, change=["ENV A=1"])
        assert not os.path.exists(writable)
    assert os.stat(f"{image.layers[-1].path}/new/file").st_ino == inode
    with engine.run("kept:moved", command=[]) as other:
        assert other.exec("cat /new/file; echo $A", check=True).stdout == "1\n1\n"
    engine.remove("kept:moved")


def test_what_was_started_to_be_kept_may_go_on_or_be_dropped(engine, debian_image):
    with engine.start(ContainerSpec.of(debian_image, command=[]), to_keep=True) as container:
        (writable,) = [overlay.upper for overlay in container.spec.overlays]
        container.write_text("/file", "one")
        first = container.commit()
        container.write_text("/file", "two")
        with pytest.raises(UsageError, match="change"):
            container.commit(end=True, change=["nonsense"])
        assert container.read_text("/file") == "two", "it goes on when nothing was kept of it"
        assert os.path.exists(writable)
    assert not os.path.exists(writable)
    with engine.run(first, command=[]) as other:
        assert other.read_text("/file") == "one"


def test_nothing_written_is_no_layer_when_it_is_moved(engine, debian_image):
    with engine.start(ContainerSpec.of(debian_image, command=[]), to_keep=True) as container:
        image = container.commit(end=True)
    assert image.layers == engine.image(debian_image).layers


@pytest.mark.identities("root", "range")
def test_a_committed_image_keeps_owners(engine, debian):
    debian.exec("touch /srv/owned; chown 12:34 /srv/owned", check=True)
    with engine.run(debian.commit(), command=[]) as container:
        assert container.exec("stat -c %u:%g /srv/owned").stdout == "12:34\n"


def test_file_capabilities_are_kept(engine, host):
    value = (0x02000001).to_bytes(4, "little") + (1 << 13).to_bytes(4, "little") + bytes(12)
    read = "import os; print(os.getxattr('/srv/cat', 'security.capability')[:8].hex())"
    host.exec("cp /bin/cat /srv/cat", check=True)
    host.exec(["python3", "-c", f"import os; os.setxattr('/srv/cat', 'security.capability', {value!r})"], check=True)
    before = host.exec(["python3", "-c", read]).stdout
    with engine.run(host.commit(), command=[]) as container:
        assert container.exec(["python3", "-c", read], check=True).stdout == before


def test_a_sparse_file_takes_no_room_in_the_store_or_outside(engine, host, tmp_path):
    script = (
        "cd /srv; truncate -s 4G sparse; for at in 1 3000; do echo x | dd of=sparse seek=$at bs=1M conv=notrunc; done"
    )
    host.exec(script, check=True)
    host.exec("truncate -s 1G /srv/empty", check=True)
    image = host.commit()
    host.copy_out("/srv/sparse", tmp_path / "sparse")
    for path in (os.path.join(image.layers[-1].path, "srv/sparse"), tmp_path / "sparse"):
        info = os.stat(path)
        assert (info.st_size, info.st_blocks < 1000) == (4 << 30, True)
        with open(path, "rb") as file:
            for at in (1 << 20, 3000 << 20):
                file.seek(at - 2)
                assert file.read(6) == b"\0\0x\n\0\0"
    assert os.stat(os.path.join(image.layers[-1].path, "srv/empty")).st_blocks == 0


def test_many_hard_links_are_no_matter(engine, host):
    script = "mkdir /srv/m; cd /srv/m; i=0; while [ $i -lt 1500 ]; do : >a$i; ln a$i b$i; i=$((i+1)); done"
    host.exec(script, check=True)
    with engine.run(host.commit(), command=[]) as container:
        counts = container.exec("cd /srv/m; ls | wc -l; find . -links 2 -name '[ab]*' | wc -l").stdout.split()
        assert counts == ["3000", "3000"]


def test_the_committed_image_has_a_tag_a_command_and_the_environment(engine, host):
    host.write_text("/srv/file", "kept")
    host.commit("committed:now", command=["sh", "-c", "cat /srv/file; echo $MORE"], env={"MORE": "env"})
    with engine.run("committed:now") as container:
        assert container.wait(10) == 0
        assert container.logs() == "keptenv\n"


def test_what_a_container_writes_no_other_sees(engine, host):
    host.exec("echo mine >/srv/file; rm /usr/bin/env")
    with engine.run("capsule/host", command=[]) as other:
        assert other.listdir("/srv") == []
        assert other.exists("/usr/bin/env")
        assert lines(other) == []


def test_a_commit_with_changes(engine, host):
    host.write_text("/srv/seed", "x")
    changes = ['CMD ["cat", "seed"]', "WORKDIR /srv", "ENV A=1", "LABEL for=tests", "EXPOSE 80"]
    image = host.commit(env={"B": "2"}, change=changes)
    run = image.config.config
    assert (run.working_dir, run.labels["for"], run.exposed_ports) == ("/srv", "tests", ("80/tcp",))
    assert {"A": "1", "B": "2"}.items() <= run.env_dict().items()
    with engine.run(image) as container:
        assert (container.wait(timeout=60), container.logs()) == (0, "x")
    for change in ("RUN true", "nonsense"):
        with pytest.raises(UsageError, match="change"):
            host.commit("never", change=[change])
    with pytest.raises(ImageNotFound):
        engine.image("never")


def test_a_commit_of_a_busy_container_holds_nothing_up(engine, host, eventually):
    script = "cd /srv; touch /tmp/going; while :; do rm -f f; echo x >f; rm -f f; mkfifo f; rm -f f; ln -s x f; done"
    process = host.popen(script)
    eventually(lambda: host.exists("/tmp/going"))
    for _ in range(20):
        engine.remove(host.commit())
    process.kill()
    assert host.exec(["echo", "init lives"]).stdout == "init lives\n"


ROUNDS = """
import os
os.mkdir("/srv/set")
files = [os.open(f"/srv/set/{number:03}", os.O_CREAT | os.O_WRONLY) for number in range(200)]
count = 0
while True:
    count += 1
    for file in files:
        os.pwrite(file, b"%08d" % count, 0)
    if count == 3:
        open("/tmp/going", "w").close()
"""


def test_the_files_of_a_commit_are_of_one_moment(engine, host, eventually):
    """As a database needs it that is not stopped before: none is of a later time than one that is written after it."""
    host.popen(["python3", "-c", ROUNDS])
    eventually(lambda: host.exists("/tmp/going"))
    for _ in range(5):
        image = host.commit()
        folder = os.path.join(image.layers[-1].path, "srv/set")
        counts = []
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name)) as file:
                counts.append(int(file.read()))
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1
        assert host.status == "running"
        engine.remove(image)
        eventually(lambda newest=counts[0]: int(host.read_text("/srv/set/199")) > newest)  # it goes on


def test_a_commit_leaves_a_paused_container_paused(engine, host):
    host.popen(["sleep", "600"])
    host.pause()
    engine.remove(host.commit())
    assert host.status == "paused"
    host.unpause()
    assert host.exec(["true"]).exit_code == 0
