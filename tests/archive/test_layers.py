"""Layers in both forms: tars with ``.wh.`` files, and directories with the marks of an overlay filesystem.

Here they are made as whoever runs the tests, who may not make every kind of file; ``tests/store/test_interchange.py``
makes them where containers are made.
"""

import bz2
import gzip
import io
import itertools
import lzma
import os
import random
import stat
import subprocess
import tarfile
from functools import partial

import pytest
from compressions import needs_zstd, zstd

from pytest_capsule.archive import compression
from pytest_capsule.archive.layers import pack_layer, unpack_layer
from pytest_capsule.oci.digest import Digest

OPAQUE = "user.overlay.opaque"


def member(name, content=None, *, kind=None, link="", **fields):
    info = tarfile.TarInfo(name)
    info.type = kind or (tarfile.REGTYPE if content is not None else tarfile.DIRTYPE)
    info.linkname, info.uid, info.gid = link, os.getuid(), os.getgid()
    info.mode = 0o755 if info.isdir() else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    data = content.encode() if isinstance(content, str) else content or b""
    info.size = len(data)
    return info, data


def archive(*members, format=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.TarFile(fileobj=file, mode="w", format=format, errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def unpacked(tmp_path):
    """``unpacked(bytes)`` is the directory of the layer, and what was told of it."""
    numbers = itertools.count()

    def unpack(data):
        number = next(numbers)
        blob = tmp_path / f"blob{number}"
        blob.write_bytes(data)
        return tmp_path / f"tree{number}", unpack_layer(str(blob), str(tmp_path / f"tree{number}"), {})

    return unpack


@pytest.fixture
def packed(tmp_path):
    """``packed(tree)`` is the uncompressed tar of a directory, and what was told of it."""
    numbers = itertools.count()

    def pack(tree):
        blob = tmp_path / f"packed{next(numbers)}"
        os.utime(tree, (0, 0))  # the layer's own directory is told where it is not root's
        told = pack_layer(str(tree), str(blob))
        data = blob.read_bytes()
        assert told["digest"] == str(Digest.of(data))
        assert told["size"] == len(data)
        assert told["diff_id"] == str(Digest.of(gzip.decompress(data)))
        return gzip.decompress(data), told

    return pack


def listed(tree):
    """Every entry beneath a directory with all that a layer keeps of it."""
    found = {}
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            content = b""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(info.st_mode):
                content = os.fsencode(os.readlink(path))
            regular = kind in (stat.S_IFREG, stat.S_IFDIR)
            xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)} if regular else {}
            links = info.st_nlink if stat.S_ISREG(info.st_mode) else 0
            found[os.path.relpath(path, tree)] = (info.st_mode, info.st_mtime_ns, info.st_rdev, links, content, xattrs)
    return found


def is_whiteout(path):
    info = os.lstat(path)
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


# -- whiteouts -------------------------------------------------------------------------------------------------------


def test_whiteouts_and_opaque_directories_become_marks_and_back(unpacked, packed):
    tree, told = unpacked(
        archive(
            member("dir"),
            member("dir/.wh..wh..opq", ""),
            member("dir/kept", "x"),
            member("gone/.wh.file", ""),
            member(".wh.top", ""),
            member(".wh..wh.plnk"),
            member(".wh..wh.plnk/123.456", "aufs"),
        )
    )
    assert os.getxattr(tree / "dir", OPAQUE) == b"y"
    assert is_whiteout(tree / "gone/file")
    assert is_whiteout(tree / "top")
    assert sorted(os.listdir(tree)) == ["dir", "gone", "top"]
    assert told["implied"] == ["/gone"]
    with tarfile.open(fileobj=io.BytesIO(packed(tree)[0])) as tar:
        names = [name for name in tar.getnames() if name != "."]  # told where it is not root's
    assert names == ["dir", "dir/.wh..wh..opq", "dir/kept", "gone", "gone/.wh.file", ".wh.top"]


def test_whiteouts_hide_what_lies_below_and_nothing_of_their_own_layer(unpacked):
    """In whatever order: a directory is then opaque, and a file covers what is below it anyway."""
    members = [
        member("dir"),
        member("dir/new", "x"),
        member(".wh.dir", ""),
        member("file", "y"),
        member(".wh.file", ""),
    ]
    for order in itertools.permutations(members):
        tree, _ = unpacked(archive(*order))
        assert os.getxattr(tree / "dir", OPAQUE) == b"y"
        assert (tree / "dir/new").read_text() + (tree / "file").read_text() == "xy"


@pytest.mark.parametrize("name", [".wh.", ".wh...", "dir/.wh.."])
def test_a_whiteout_of_nothing_is_refused(unpacked, name):
    assert "hides nothing" in unpacked(archive(member(name, "")))[1]["broken"]


def test_an_archive_cannot_set_the_marks_itself(unpacked):
    tree, _ = unpacked(
        archive(
            member("dir", pax_headers={"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.kept": "1"}),
            member("file", "x", pax_headers={"SCHILY.xattr.user.containers.override_stat": "7:7:0777"}),
        )
    )
    assert os.listxattr(tree / "dir") == ["user.kept"]
    assert os.listxattr(tree / "file") == []


# -- everything else ---------------------------------------------------------------------------------------------------


def everything():
    """A layer with one of each kind that whoever runs the tests may make."""
    long = "/".join(["long" * 20] * 6)
    parents = [member("/".join(["long" * 20] * depth), mtime=7) for depth in range(1, 7)]
    return [
        *parents,
        member("dir", mode=0o1777, mtime=1_500_000_000.25),
        member("dir/setuid", "program", mode=0o4755, mtime=1.5),
        member("dir/setgid", "program", mode=0o2755, mtime=2**33),
        member("dir/secret", "", mode=0o000 if os.geteuid() == 0 else 0o400, mtime=0),
        member(f"{long}/{'n' * 255}", "deep", mtime=9),
        member("hard", kind=tarfile.LNKTYPE, link="dir/setuid"),
        member("other", mtime=5),
        member("other/hard", kind=tarfile.LNKTYPE, link="dir/setuid"),
        member("link", kind=tarfile.SYMTYPE, link="x" * 400, mtime=3.125),
        member("dangling", kind=tarfile.SYMTYPE, link="/nowhere", mtime=4),
        member("fifo", kind=tarfile.FIFOTYPE, mtime=6),
        member("größe", "utf-8", mtime=8),
        member(os.fsdecode(b"\xff\xfe raw"), "bytes", mtime=8),
        member("new\nline", "x", mtime=8),
        member("big", os.urandom(3 << 20), mtime=8),
        member("marked", "x", mtime=8, pax_headers={"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "y" * 200}),
        member(".wh.hidden", "", mtime=8),
    ]


def test_a_layer_keeps_everything_both_ways(unpacked, packed):
    tree, told = unpacked(archive(*everything()))
    first, described = packed(tree)
    again, _ = unpacked(first)
    ours = listed(tree)
    assert listed(again) == ours
    assert packed(again)[1] == described, "the same files give the same bytes"
    assert told["implied"] == []
    assert ours["dir/setuid"][3] == 3, "hard links across directories"
    assert ours["link"][1] == 3_125_000_000
    assert ours["dir"][1] == 1_500_000_000_250_000_000, "although files were put in"
    assert ours["dir/setgid"][1] == 2**33 * 10**9
    assert stat.S_IMODE(ours["dir"][0]) == 0o1777


def test_the_order_of_members_makes_no_difference(unpacked, packed):
    members = everything()
    expected = packed(unpacked(archive(*members))[0])[1]
    shuffler = random.Random(20)
    for _ in range(5):
        shuffler.shuffle(members)
        tree, told = unpacked(archive(*members))
        assert packed(tree)[1] == expected
        assert told["implied"] == []


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(unpacked, format):
    deep = "/".join(["d" * 30] * 5)
    tree, _ = unpacked(archive(member(f"{deep}/file", "x", mtime=5), member("a", "y", mtime=6), format=format))
    assert (tree / deep / "file").read_text() == "x"
    assert (tree / "a").stat().st_mtime == 6


@pytest.mark.parametrize("format", ["gnu", "posix"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar(unpacked, tmp_path, format, version):
    """As GNU tar writes them, in its own format and in the three of pax; with more holes than a header has room for."""
    folder = tmp_path / "source"
    folder.mkdir()
    with (folder / "sparse").open("wb") as file:
        for number in range(40):
            file.seek(number << 20)
            file.write(b"%05d" % number)
        file.truncate(41 << 20)
    options = [f"--sparse-version={version}"] if format == "posix" else []
    data = subprocess.run(
        ["tar", "-C", folder, "-S", f"--format={format}", *options, "-cf", "-", "sparse"],
        check=True,
        capture_output=True,
    ).stdout
    assert len(data) < 1 << 20
    tree, _ = unpacked(data)
    assert (tree / "sparse").read_bytes() == (folder / "sparse").read_bytes()
    assert (tree / "sparse").stat().st_blocks * 512 < 2 << 20, "its holes are holes"


def test_what_gnu_tar_writes_and_reads(unpacked, packed, tmp_path):
    tree, _ = unpacked(archive(*everything()))
    (tree / "hidden").unlink()
    data = subprocess.run(["tar", "-C", tree, "--xattrs", "--format=posix", "-cf", "-", "."], check=True,
                          capture_output=True).stdout  # fmt: skip
    assert listed(unpacked(data)[0]) == listed(tree)
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["tar", "-C", tmp_path / "out", "--xattrs", "--xattrs-include=*", "-xpf", "-"],
        input=packed(tree)[0], check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert listed(tmp_path / "out") == listed(tree)


def test_device_nodes_and_file_capabilities(unpacked, packed, identity):
    if identity != "root":
        pytest.skip("only root may make them")
    capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".decode("utf-8", "surrogateescape")
    tree, _ = unpacked(
        archive(
            member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=300),
            member("ping", "x", uid=1234, gid=2**31, pax_headers={"SCHILY.xattr.security.capability": capability}),
        )
    )
    again, _ = unpacked(packed(tree)[0])
    assert os.stat(again / "null").st_rdev == os.makedev(1, 3)
    assert os.stat(again / "disk").st_rdev == os.makedev(259, 300)
    assert os.getxattr(again / "ping", "security.capability") == capability.encode("utf-8", "surrogateescape")
    assert (os.stat(again / "ping").st_uid, os.stat(again / "ping").st_gid) == (1234, 2**31)


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(512),
        bz2.compress,
        lzma.compress,
        pytest.param(zstd, marks=needs_zstd),
    ],
    ids=["gzip", "gzip in two", "bzip2", "xz", "zstd"],
)
def test_compressed_layers(unpacked, compress):
    whole = archive(member("file", os.urandom(2000)), member("last", "x"))
    tree, told = unpacked(compress(whole))
    assert told["diff_id"] == str(Digest.of(whole))
    assert (tree / "last").read_text() == "x"
    assert "broken" in unpacked(compress(whole)[:1800])[1]


def test_zstd_without_zstd_says_what_to_install(unpacked, monkeypatch):
    monkeypatch.setattr(compression, "_zstd", None)
    assert "install pytest-capsule[zstd]" in unpacked(b"\x28\xb5\x2f\xfd rest")[1]["broken"]


def test_a_bomb_is_unpacked_a_piece_at_a_time():
    """Reading the header of a gigabyte of zeros takes megabytes."""
    bomb = gzip.compress(bytes(64 << 20))
    pieces = compression.unpacked(io.BytesIO(bomb))
    assert len(next(pieces)) <= 4 << 20


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, partial(lzma.compress, preset=0)])
def test_a_decompression_bomb_is_refused(unpacked, monkeypatch, pack):
    """What gives more than a gigabyte may give 200 times as much as it is: here the gigabyte is a megabyte."""
    monkeypatch.setattr(compression, "_HARMLESS", 1 << 20)
    bomb = archive(member("zeros", "\0" * (8 << 20)))
    said = unpacked(pack(bomb))[1]["broken"]
    assert "decompression bomb" in said
    assert "decompress it first" in said
    assert "broken" not in unpacked(bomb)[1]  # as large as it is
    assert "broken" not in unpacked(pack(archive(member("zeros", "\0" * (1 << 19)))))[1]
    noise = archive(member("noise", os.urandom(3 << 20).decode("latin-1")))
    assert "broken" not in unpacked(pack(noise))[1]


def test_many_small_streams_are_one_bomb_too(unpacked, monkeypatch):
    monkeypatch.setattr(compression, "_HARMLESS", 1 << 20)
    bomb = gzip.compress(archive(member("zeros", "\0" * (1 << 19)))[:-1024]) * 20
    assert "decompression bomb" in unpacked(bomb)[1]["broken"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 100, "ends too early"),
        (b"no tar at all" * 100, "bad checksum"),
        (gzip.compress(b"x" * 5000), "bad checksum"),
        (b"\x1f\x8b broken gzip", "damaged"),
        (archive(member("a", "x" * 5000))[:1500], "ends too early"),
        (archive(member("a", kind=tarfile.LNKTYPE, link="../b")), "/a is a hard link to /b, which is not there"),
        (archive(member("a", kind=tarfile.LNKTYPE, link="a")), "/a is a hard link to /a, which is not there"),
        (archive(member("a", "", uid=1 << 32)), "a: there is no owner 4294967296:"),
        (archive(member("a", "", gid=(1 << 32) - 1)), "a: there is no owner "),
        (archive(member("a", "", uid=-2), format=tarfile.GNU_FORMAT), "a: there is no owner -2:"),
    ],
)
def test_what_is_no_layer(unpacked, data, message):
    assert message in unpacked(data)[1]["broken"]
