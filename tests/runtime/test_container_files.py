"""Files inside, opened by the test: resolved inside the container's root, whatever stands there."""

from __future__ import annotations

import os
import stat

import pytest

from pytest_capsule.errors import UsageError


def test_texts_and_bytes_go_in_and_out(host):
    assert host.write_text("/tmp/text", "grüße\n") == 6
    assert host.read_text("/tmp/text") == "grüße\n"
    assert host.write_bytes("/tmp/bytes", b"\0\xff") == 2
    assert host.read_bytes("/tmp/bytes") == b"\0\xff"
    assert host.exec(["cat", "/tmp/text"]).stdout == "grüße\n"


@pytest.mark.parametrize(
    ("mode", "content"),
    [("w", "new"), ("a", "oldnew"), ("r+", "new"), ("w+", "new"), ("a+", "oldnew"), ("wt", "new")],
)
def test_every_mode_does_what_it_does_outside(host, mode, content):
    host.write_text("/tmp/file", "old")
    with host.open("/tmp/file", mode) as file:
        file.write("new")
    assert host.read_text("/tmp/file") == content
    with host.open("/tmp/file", mode.replace("t", "") + "b") as file:
        file.write(b"NEW")
        assert file.writable() and file.readable() == ("+" in mode)
    assert host.read_text("/tmp/file").endswith("NEW")


def test_x_makes_only_what_is_not_there(host):
    with host.open("/tmp/file", "x") as file:
        file.write("mine")
    with pytest.raises(FileExistsError, match="/tmp/file"):
        host.open("/tmp/file", "xb")


def test_reading_and_writing_one_open_file(host):
    with host.open("/tmp/file", "w+") as file:
        file.write("one\ntwo\n")
        file.seek(0)
        assert list(file) == ["one\n", "two\n"]
    with pytest.raises(UnicodeDecodeError):
        host.write_bytes("/tmp/latin", b"\xe9")
        host.read_text("/tmp/latin")
    assert host.read_text("/tmp/latin", encoding="latin-1") == "é"


@pytest.mark.parametrize("mode", ["", "q", "rw", "rbt", "rr", "b", "+"])
def test_other_modes_are_refused(host, mode):
    with pytest.raises(UsageError, match="open"):
        host.open("/etc/hostname", mode)


def test_a_wrong_encoding_leaves_nothing_open(host):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(LookupError):
        host.open("/etc/hostname", encoding="no-such")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_is_made_belongs_to_root(host):
    host.write_text("/tmp/file", "")
    assert host.exec(["stat", "-c", "%u %g %a", "/tmp/file"]).stdout == "0 0 644\n"


def test_a_missing_file_is_named(host):
    for ask in (host.read_text, host.read_bytes, host.listdir, host.open):
        with pytest.raises(FileNotFoundError) as caught:
            ask("/no/such/file")
        assert caught.value.filename == "/no/such/file"
    with pytest.raises(FileNotFoundError, match="/no/such/file"):
        host.write_text("/no/such/file", "")
    with pytest.raises(NotADirectoryError, match="/etc/passwd/x"):
        host.read_text("/etc/passwd/x")
    with pytest.raises(IsADirectoryError, match="/etc"):
        host.read_text("/etc")
    with pytest.raises(IsADirectoryError, match="/etc"):
        host.write_text("/etc", "")
    with pytest.raises(NotADirectoryError, match="/etc/passwd"):
        host.listdir("/etc/passwd")


def test_a_relative_path_starts_from_the_working_directory(engine):
    with engine.run("capsule/host", command=[], workdir="/srv/app") as container:
        container.write_text("file", "here")
        assert container.read_text("/srv/app/file") == "here"
        assert container.listdir(".") == ["file"]
        assert container.read_text("../app/./file") == "here"


def test_exists_and_listdir(host):
    host.exec("mkdir /tmp/d; touch /tmp/d/b /tmp/d/a; ln -s nowhere /tmp/d/dangling; ln -s loop /tmp/d/loop")
    assert host.listdir("/tmp/d") == ["a", "b", "dangling", "loop"]
    there = {name: host.exists(f"/tmp/d/{name}") for name in ("a", "c", "dangling", "loop", "a/b", ".")}
    assert there == {"a": True, "c": False, "dangling": False, "loop": False, "a/b": False, ".": True}


def test_names_that_are_no_text(host):
    name = os.fsdecode(b"/srv/caf\xe9-\xff")
    host.write_text(name, "bytes")
    assert host.listdir("/srv") == [os.path.basename(name)]
    assert host.exec("ls /srv", text=False).stdout == b"caf\xe9-\xff\n"
    assert host.exec(["cat", name]).stdout == "bytes"


def test_a_link_stays_inside(host):
    assert not host.exists("/tmp/marker")
    host.exec("mkdir -p /tmp/a/b; ln -s ../../../../../../../../etc/hostname /tmp/a/b/up; ln -s / /tmp/root")
    inside = host.read_text("/etc/hostname")
    assert host.read_text("/tmp/a/b/up") == inside
    assert host.read_text("/tmp/root/etc/hostname") == inside
    assert host.read_text("/tmp/../../../../etc/hostname") == inside


@pytest.mark.parametrize("target", ["/proc/self/fd/0", "/proc/1/root/etc/passwd", "/proc/1/cwd/x", "/proc/self/exe"])
def test_a_magic_link_is_no_way_out(host, target):
    host.exec(["ln", "-s", target, "/tmp/link"])
    for mode in ("r", "w"):
        with pytest.raises(OSError, match="/tmp/link"):
            host.open("/tmp/link", mode)


def test_a_fifo_in_the_place_of_a_file_holds_nothing_up(host):
    host.exec("mkfifo /tmp/fifo")
    with host.open("/tmp/fifo", "rb") as file:
        assert not file.read(1)
    with pytest.raises(OSError, match="/tmp/fifo"):
        host.open("/tmp/fifo", "w")  # nobody reads it
    host.exec("rm /etc/passwd; mkfifo /etc/passwd")
    assert host.exec(["echo", "init lives"]).stdout == "init lives\n"


def test_a_lease_on_a_file_holds_nothing_up(host, eventually):
    script = "import fcntl, os, signal\nfd = os.open('/tmp/leased', os.O_RDWR | os.O_CREAT)\n"
    script += "signal.signal(signal.SIGIO, signal.SIG_IGN)\nfcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
    script += "open('/tmp/taken', 'w')\nsignal.pause()\n"
    process = host.popen(["python3", "-c", script])
    eventually(lambda: host.exists("/tmp/taken"))
    with pytest.raises(BlockingIOError, match="/tmp/leased"):
        host.read_text("/tmp/leased")
    assert host.exec(["echo", "init lives"]).stdout == "init lives\n"
    process.kill()


def test_a_directory_opened_is_none_of_the_hosts(host):
    fd = host.open_root()
    try:
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        assert sorted(os.listdir(f"/proc/self/fd/{fd}"))
        assert os.fstat(fd).st_dev != os.stat("/").st_dev
    finally:
        os.close(fd)
