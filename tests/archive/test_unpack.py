"""The tar extractor against archives that are not kind: whatever is in one, nothing outside of the root changes."""

import contextlib
import io
import os
import stat
import tarfile

import pytest

from pytest_capsule.archive.compression import Broken
from pytest_capsule.archive.unpack import is_archive, unpack


class Archive:
    """A tar in the making."""

    def __init__(self, format=tarfile.PAX_FORMAT):
        self._data = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._data, mode="w", format=format, errors="surrogateescape")

    def add(self, name, content=None, kind=None, link="", **fields):
        member = tarfile.TarInfo(name)
        member.type = kind or (tarfile.REGTYPE if content is not None else tarfile.DIRTYPE)
        member.linkname = link
        member.mode = 0o755 if member.isdir() else 0o644
        for field, value in fields.items():
            setattr(member, field, value)
        data = (content or "").encode()
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        return self

    def file(self):
        self._tar.close()
        self._data.seek(0)
        return self._data


@pytest.fixture
def place(tmp_path):
    """A root to unpack into, with a canary beside it that no archive may touch."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside/dir").mkdir(parents=True)
    (tmp_path / "outside/canary").write_text("alive")
    return tmp_path


def outside(place):
    """All that lies beside the root, with its content and metadata."""
    found = {}
    for folder, folders, files in os.walk(place):
        if folder == str(place):
            folders.remove("root")
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            found[path] = (info.st_mode, info.st_nlink, info.st_mtime_ns, info.st_ino, info.st_size)
    return found


def put(place, archive):
    """Unpack; everything in it is to belong to whoever runs the test."""
    before = outside(place)
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(archive.file(), root, owner=lambda _: (os.getuid(), os.getgid()))
    finally:
        os.close(root)
        assert outside(place) == before


def tree(place):
    root = place / "root"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_an_ordinary_archive(place):
    count = put(
        place,
        Archive()
        .add("dir", mtime=1_000_000_000.5)
        .add("dir/file", "text", mode=0o4755, mtime=1_500_000_000.25)
        .add("dir/link", kind=tarfile.SYMTYPE, link="file")
        .add("hard", kind=tarfile.LNKTYPE, link="dir/file")
        .add("fifo", kind=tarfile.FIFOTYPE)
        .add("no/parents/were/named", "n"),
    )
    root = place / "root"
    assert count == 6
    assert (root / "dir/link").read_text() == "text"
    assert (root / "hard").stat().st_ino == (root / "dir/file").stat().st_ino
    assert stat.S_IMODE((root / "dir/file").stat().st_mode) == 0o4755
    assert (root / "dir/file").stat().st_mtime_ns == 1_500_000_000_250_000_000
    assert (root / "dir").stat().st_mtime_ns == 1_000_000_000_500_000_000, "although a file was put in after it"
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    assert stat.S_IMODE((root / "no/parents").stat().st_mode) == 0o755


@pytest.mark.parametrize("mask", [0, 0o077])
def test_modes_are_those_of_the_archive_whatever_the_mask_and_the_folder_say(place, mask):
    archive = Archive().add("shared", mode=0o2775)
    modes = {"shared/file": 0o664, "shared/setuid": 0o6755, "shared/open": 0o666, "shared/closed": 0}
    for name, mode in modes.items():
        archive.add(name, "text", mode=mode)
    archive.add("shared/dir", mode=0o755).add("shared/sticky", mode=0o1777)
    archive.add("shared/fifo", kind=tarfile.FIFOTYPE, mode=0o660)
    modes |= {"shared": 0o2775, "shared/dir": 0o755, "shared/sticky": 0o1777, "shared/fifo": 0o660}
    before = os.umask(mask)
    try:
        put(place, archive)
    finally:
        os.umask(before)
    assert {name: stat.S_IMODE((place / "root" / name).stat().st_mode) for name in modes} == modes


@pytest.mark.parametrize(
    ("name", "lands"),
    [
        ("/absolute", "absolute"),
        ("//twice", "twice"),
        ("../../../climbing", "climbing"),
        ("dir/../../../over", "over"),
        ("./dot/./file", "dot/file"),
        ("a//b", "a/b"),
    ],
)
def test_names_stay_inside(place, name, lands):
    put(place, Archive().add(name, "x"))
    assert (place / "root" / lands).read_text() == "x"


@pytest.mark.parametrize(
    "target", ["../outside", "{place}/outside", "../../../../../../../../../..{place}/outside", "deep/../../outside"]
)
def test_a_symlink_is_no_way_out(place, target):
    """What is put beneath it lands where the link points to when the root is ``/``."""
    target = target.format(place=place)
    archive = (
        Archive().add("link", kind=tarfile.SYMTYPE, link=target).add("link/canary", "dead").add("link/dir/new", "x")
    )
    put(place, archive)
    assert (place / "outside/canary").read_text() == "alive"
    assert os.readlink(place / "root/link") == target, "and the link itself is as it was"


def test_a_chain_of_symlinks_is_no_way_out(place):
    archive = Archive()
    for number, target in enumerate(("..", "l0/..", "l1/..", "l2/../outside")):
        archive.add(f"l{number}", kind=tarfile.SYMTYPE, link=target)
    put(place, archive.add("l3/canary", "dead"))
    assert (place / "root/outside/canary").read_text() == "dead"


def test_a_loop_of_symlinks_ends(place):
    archive = (
        Archive().add("a", kind=tarfile.SYMTYPE, link="b").add("b", kind=tarfile.SYMTYPE, link="a").add("a/file", "x")
    )
    with pytest.raises(OSError, match="symbolic links"):
        put(place, archive)


def test_a_file_replaces_a_symlink_and_not_its_target(place):
    put(place, Archive().add("link", kind=tarfile.SYMTYPE, link=str(place / "outside/canary")).add("link", "mine"))
    assert not (place / "root/link").is_symlink()
    assert (place / "root/link").read_text() == "mine"


def test_a_hard_link_cannot_reach_outside(place):
    for link in (f"{place}/outside/canary", "../outside/canary", "../../../../../../etc/passwd"):
        with pytest.raises(Broken, match="which is not there"):
            put(place, Archive().add("hard", kind=tarfile.LNKTYPE, link=link))
    put(
        place,
        Archive()
        .add("way", kind=tarfile.SYMTYPE, link="../outside")
        .add("/outside/canary", "mine")
        .add("hard", kind=tarfile.LNKTYPE, link="way/canary"),
    )
    assert (place / "root/hard").read_text() == "mine"


def test_a_hard_link_to_a_symlink_is_one_to_the_link(place):
    archive = Archive().add("link", kind=tarfile.SYMTYPE, link=str(place / "outside/canary"))
    put(place, archive.add("hard", kind=tarfile.LNKTYPE, link="link").add("hard", "mine"))
    assert (place / "outside/canary").read_text() == "alive"


def test_mode_owner_and_time_of_a_symlink_are_not_its_targets(place):
    before = (place / "outside/canary").stat()
    put(place, Archive().add("link", kind=tarfile.SYMTYPE, link=str(place / "outside/canary"), mode=0o777, mtime=5))
    after = (place / "outside/canary").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)
    assert (place / "root/link").lstat().st_mtime == 5


def test_what_replaces_what(place):
    put(place, Archive().add("a", "file").add("a").add("a/in", "x").add("b").add("b/in", "x").add("b", "file"))
    assert tree(place) == ["a", "a/in", "b"]
    assert (place / "root/b").read_text() == "file"


def test_a_directory_that_is_there_stays_with_what_it_holds(place):
    put(place, Archive().add("dir").add("dir/kept", "x").add("dir", mode=0o700))
    assert tree(place) == ["dir", "dir/kept"]
    assert stat.S_IMODE((place / "root/dir").stat().st_mode) == 0o700


def test_a_directory_replaces_a_symlink(place):
    put(
        place,
        Archive().add("dir", kind=tarfile.SYMTYPE, link=str(place / "outside")).add("dir").add("dir/canary", "mine"),
    )
    assert (place / "root/dir/canary").read_text() == "mine"
    assert not (place / "root/dir").is_symlink()


def test_the_root_itself_takes_its_mode_and_is_never_replaced(place):
    put(place, Archive().add(".", mode=0o711).add("/", "a file called like the root").add("..", "x").add("in", "x"))
    assert stat.S_IMODE((place / "root").stat().st_mode) == 0o711
    assert tree(place) == ["in"]


def test_device_nodes(place, identity):
    put(place, Archive().add("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3).add("file", "x"))
    if identity == "root":
        assert (place / "root/null").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISCHR((place / "root/null").stat().st_mode)
    else:
        assert tree(place) == ["file"], "left out where the kernel lets nobody make one"


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_names_of_any_length_and_bytes(place, format):
    names = ["größe", "x" * 255, "/".join(["long" * 20] * 8), "new\nline", os.fsdecode(b"\xff raw"), " space "]
    archive = Archive(format)
    for name in names:
        archive.add(name, name.replace("\udcff", "?"))
    archive.add("link", kind=tarfile.SYMTYPE, link="y" * 300)
    put(place, archive)
    for name in names:
        assert (place / "root" / name).read_text() == name.replace("\udcff", "?")
    assert os.readlink(place / "root/link") == "y" * 300


def test_extended_attributes(place):
    archive = Archive()
    archive.add("file", "x", pax_headers={"SCHILY.xattr.user.colour": "blue"})
    put(place, archive)
    with contextlib.suppress(OSError):  # a filesystem that has none
        os.setxattr(place / "outside", "user.probe", b"1")
        assert os.getxattr(place / "root/file", "user.colour") == b"blue"


def test_a_sparse_file_of_gnu_tar(place, tmp_path):
    """As ``tar --sparse`` writes it: the header says where the data goes, and the rest is a hole."""
    header = bytearray(tarfile.TarInfo("sparse").tobuf(tarfile.GNU_FORMAT))
    data = b"D" * 512
    header[156:157] = b"S"
    header[124:136] = b"%011o\0" % len(data)
    header[386:410] = b"%011o\0%011o\0" % (1 << 20, len(data))  # one piece of data at one MiB
    header[483:495] = b"%011o\0" % (2 << 20)  # and two MiB in all
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    stream = io.BytesIO(bytes(header) + data + b"\0" * 1024)
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert unpack(stream, root, owner=lambda _: (os.getuid(), os.getgid())) == 1
    finally:
        os.close(root)
    content = (place / "root/sparse").read_bytes()
    assert len(content) == 2 << 20
    assert content.strip(b"\0") == data
    assert content.index(b"D") == 1 << 20


@pytest.mark.parametrize("cut", [600, 1300, 9000])
def test_an_archive_that_ends_too_early(place, cut):
    whole = Archive().add("first", "x").add("second", "y" * 10_000).file().read()
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(Broken):
            unpack(io.BytesIO(whole[:cut]), root, owner=lambda _: (os.getuid(), os.getgid()))
    finally:
        os.close(root)


def test_a_damaged_header_is_not_the_end(place):
    whole = bytearray(Archive().add("first", "x").add("second", "y").file().read())
    whole[1024 + 10] ^= 1  # in the name of the second, so that its checksum is wrong
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(Broken, match="bad checksum"):
            unpack(io.BytesIO(bytes(whole)), root, owner=lambda _: (os.getuid(), os.getgid()))
    finally:
        os.close(root)


def test_what_is_an_archive():
    assert is_archive(Archive().add("a", "x").file())
    for content in (b"", b"text", b"\x1f\x8b broken gzip", b"\0" * 10240, b"BZh9", b"\xfd7zXZ\0"):
        file = io.BytesIO(content)
        assert not is_archive(file), content[:10]
        assert file.tell() == 0
