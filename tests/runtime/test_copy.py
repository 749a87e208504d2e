"""``copy_in`` and ``copy_out``, as ``docker cp``."""

from __future__ import annotations

import os
import stat

import pytest

from pytest_capsule.errors import ContainerError, UsageError


@pytest.fixture
def tree(tmp_path):
    """A folder with a file, a program, an empty folder, symlinks and a name that is no text."""
    root = tmp_path / "tree"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "file").write_text("content")
    (root / "program").write_text("#!/bin/sh\necho runs\n")
    (root / "program").chmod(0o755)
    os.utime(root / "file", (1_000_000_000, 1_000_000_000))
    os.symlink("file", root / "link")
    os.symlink("/no/where", root / "sub" / "dangling")
    (root / os.fsdecode(b"caf\xe9")).write_text("bytes")
    return root


def names(folder):
    found = (os.path.join(top, name) for top, folders, files in os.walk(folder) for name in folders + files)
    return sorted(os.path.relpath(path, folder) for path in found)


def test_a_file_goes_in_under_its_own_or_another_name(host, tree):
    host.copy_in(tree / "file", "/tmp")
    host.copy_in(tree / "file", "/tmp/")
    host.copy_in(tree / "file", "/tmp/renamed")
    host.copy_in(str(tree / "file"), "/made/on/the/way/")
    assert host.exec("cat /tmp/file /tmp/renamed /made/on/the/way/file").stdout == "content" * 3
    assert host.exec(["stat", "-c", "%u:%g %Y", "/tmp/file"]).stdout == "0:0 1000000000\n"
    host.copy_in(tree / "program", "/tmp/program")
    assert host.exec(["/tmp/program"]).stdout == "runs\n"


def test_a_file_replaces_another(host, tree):
    host.write_text("/tmp/file", "a much longer content")
    host.copy_in(tree / "file", "/tmp/file")
    assert host.read_text("/tmp/file") == "content"


def test_a_folder_goes_beneath_an_existing_one_or_becomes_a_new_one(host, tree):
    expected = names(tree)
    host.copy_in(tree, "/srv/new")
    host.exec("mkdir /srv/there")
    host.copy_in(tree, "/srv/there")
    host.copy_in(f"{tree}/.", "/srv/contents")
    host.exec("mkdir /srv/into")
    host.copy_in(f"{tree}/.", "/srv/into")
    for place in ("/srv/new", "/srv/there/tree", "/srv/contents", "/srv/into"):
        found = host.exec(["find", place, "-mindepth", "1", "-printf", r"%P\0"], text=False).stdout.split(b"\0")[:-1]
        assert sorted(os.fsdecode(name) for name in found) == expected, place
    assert host.exec("readlink /srv/new/link /srv/new/sub/dangling").stdout.split() == ["file", "/no/where"]


def test_a_symlink_outside_is_followed_and_keeps_its_name(host, tree, tmp_path):
    os.symlink(tree / "file", tmp_path / "current")
    os.symlink(tree, tmp_path / "latest")
    host.exec("mkdir /srv/d")
    host.copy_in(tmp_path / "current", "/srv/d")
    host.copy_in(tmp_path / "latest", "/srv/d")
    assert host.listdir("/srv/d") == ["current", "latest"]
    assert host.read_text("/srv/d/current") == host.read_text("/srv/d/latest/file") == "content"


def test_a_link_inside_leads_a_copy_no_further_than_the_root(host, tree):
    host.exec("ln -s ../../../../../../../../tmp/target /srv/up; mkdir /tmp/target; ln -s /etc/copied /srv/file-link")
    host.copy_in(tree / "file", "/srv/up/file")
    host.copy_in(tree / "file", "/srv/file-link")
    assert host.read_text("/tmp/target/file") == host.read_text("/etc/copied") == "content"
    assert not os.path.exists("/etc/copied")


def test_what_cannot_be_copied_in_is_named(host, tree, tmp_path):
    with pytest.raises(UsageError, match="no-such"):
        host.copy_in(tmp_path / "no-such", "/tmp")
    host.exec("mkdir /tmp/file")
    host.write_text("/tmp/tree", "a file")
    with pytest.raises(OSError, match="directory"):
        host.copy_in(tree, "/tmp/tree")
    assert host.read_text("/tmp/tree") == "a file"


def test_a_file_comes_out(host, tmp_path):
    host.exec("printf content >/tmp/file; chmod 750 /tmp/file; touch -d @1000000000 /tmp/file")
    host.copy_out("/tmp/file", tmp_path)
    host.copy_out("/tmp/file", tmp_path / "renamed")
    for name in ("file", "renamed"):
        info = os.stat(tmp_path / name)
        assert (tmp_path / name).read_text() == "content"
        assert (stat.S_IMODE(info.st_mode), info.st_mtime, info.st_uid) == (0o750, 1_000_000_000, os.getuid())


def test_a_tree_comes_back_as_it_went(host, tree, tmp_path):
    host.copy_in(tree, "/srv/tree")
    (tmp_path / "there").mkdir()
    (tmp_path / "into").mkdir(mode=0o700)
    host.copy_out("/srv/tree", tmp_path / "new")
    host.copy_out("/srv/tree", tmp_path / "there")
    host.copy_out("/srv/tree/.", tmp_path / "into")
    for place in ("new", "there/tree", "into"):
        assert names(tmp_path / place) == names(tree)
        assert (tmp_path / place / "file").read_text() == "content"
        assert os.readlink(tmp_path / place / "link") == "file"
        assert os.readlink(tmp_path / place / "sub" / "dangling") == "/no/where"
        assert os.access(tmp_path / place / "program", os.X_OK)
    assert stat.S_IMODE(os.stat(tmp_path / "into").st_mode) == 0o700


def test_a_missing_source_is_named(host, tmp_path):
    with pytest.raises(FileNotFoundError, match="/no/such"):
        host.copy_out("/no/such", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        host.copy_out("/etc/hostname", tmp_path / "nowhere" / "file")


def test_nothing_leads_a_copy_out_of_its_destination(host, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    (tmp_path / "dest").mkdir()
    host.exec(f"mkdir -p /srv/d; ln -s {tmp_path}/outside /srv/d/door; ln -s {tmp_path}/outside/file /srv/d/file")
    host.copy_out("/srv/d/.", tmp_path / "dest")
    host.exec("cd /srv/d; rm door file; mkdir door; echo theirs >door/file; echo theirs >file")
    with pytest.raises(FileExistsError):  # the door is there from before, and nobody goes through
        host.copy_out("/srv/d/.", tmp_path / "dest")
    host.exec("rm -r /srv/d/door")
    host.copy_out("/srv/d/.", tmp_path / "dest")
    assert (tmp_path / "dest" / "file").read_text() == "theirs\n"
    assert (tmp_path / "outside" / "file").read_text() == "mine"
    assert os.listdir(tmp_path / "outside") == ["file"]


def test_a_link_comes_out_as_a_link(host, tmp_path):
    host.exec("ln -s /etc/shadow /tmp/link")
    host.copy_out("/tmp/link", tmp_path)
    assert os.readlink(tmp_path / "link") == "/etc/shadow"


def test_fifos_sockets_and_devices_stay_inside(host, tmp_path):
    host.exec("mkdir /srv/d; mkfifo /srv/d/fifo; echo x >/srv/d/file")
    host.copy_out("/srv/d", tmp_path)
    host.copy_out("/dev", tmp_path)
    assert os.listdir(tmp_path / "d") == ["file"]
    assert not (tmp_path / "dev" / "null").exists()


def test_setuid_bits_stay_inside(host, tmp_path):
    host.exec("cp /bin/true /tmp/setuid; chmod 6755 /tmp/setuid")
    host.copy_out("/tmp/setuid", tmp_path)
    assert stat.S_IMODE(os.stat(tmp_path / "setuid").st_mode) == 0o755


def test_a_file_that_changes_its_kind_meanwhile_holds_nothing_up(host, tmp_path, eventually):
    script = "mkdir -p /srv/d; cd /srv/d; touch /tmp/going; "
    script += "while :; do rm -f f; echo x >f; rm -f f; mkfifo f; rm -f f; ln -s /etc/shadow f; done"
    process = host.popen(script)
    eventually(lambda: host.exists("/tmp/going"))
    for number in range(100):
        try:
            host.copy_out("/srv/d", tmp_path / str(number))
        except OSError:
            continue  # what was listed was gone
        copied = tmp_path / str(number) / "f"
        assert copied.is_symlink() or not copied.exists() or copied.read_text() in ("", "x\n")
    process.kill()
    assert host.exec(["echo", "init lives"]).stdout == "init lives\n"


def test_directories_without_end_are_an_error(host, tmp_path):
    make = "import os; os.mkdir('/srv/x'); os.chdir('/srv/x'); [(os.mkdir('d'), os.chdir('d')) for _ in range(3000)]"
    host.exec(["python3", "-c", make], check=True)
    with pytest.raises(ContainerError, match="more than 400 directories lie in each other"):
        host.copy_out("/srv/x", tmp_path)
    with pytest.raises(OSError, match="too deep in each other"):
        host.diff()
    with pytest.raises(OSError, match="too deep in each other"):
        host.commit()
