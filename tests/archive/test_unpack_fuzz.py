"""Any archive, unpacked as a root filesystem and as a layer, against a checker: nothing outside of its root changes."""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_capsule.archive.compression import Broken
from pytest_capsule.archive.layers import unpack_layer
from pytest_capsule.archive.unpack import unpack

KINDS = [
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
    tarfile.BLKTYPE,
]  # fmt: skip
# Few names, so that members meet; each of the ways out that is known; and the outside by its absolute name.
WORDS = [
    "a",
    "b",
    "c",
    "..",
    ".",
    "",
    ".wh.a",
    ".wh..wh..opq",
    ".wh...",
    ".wh.",
    "\udcff\udcfe",
    "é",
    "x" * 120,
    "a\nb",
]
OUTSIDE = "@outside@"


@st.composite
def paths(draw):
    parts = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5))
    start = draw(st.sampled_from(["", "/", "../../../", "./", f"{OUTSIDE}/", f"../../../../../../../../{OUTSIDE}/"]))
    return start + "/".join(parts)


members = st.builds(
    dict,
    name=paths(),
    kind=st.sampled_from(KINDS),
    link=paths() | st.sampled_from([OUTSIDE, f"{OUTSIDE}/canary", "/", "..", "/proc/self/cwd", "/proc/self/fd/3"]),
    mode=st.sampled_from([0, 0o644, 0o755, 0o777, 0o4755]),
    content=st.binary(max_size=20),
    xattrs=st.sampled_from([{}, {"user.overlay.opaque": "y"}, {"user.x": "1"}, {"trusted.overlay.redirect": "/"}]),
)


def tar_of(entries, outside, format):
    data = io.BytesIO()
    with tarfile.TarFile(fileobj=data, mode="w", format=format, errors="surrogateescape") as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry["name"].replace(OUTSIDE, outside))
            member.linkname = entry["link"].replace(OUTSIDE, outside)
            member.type, member.mode = entry["kind"], entry["mode"]
            member.uid, member.gid = os.getuid(), os.getgid()
            member.size = len(entry["content"]) if member.isreg() else 0
            if format == tarfile.PAX_FORMAT:
                member.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in entry["xattrs"].items()}
            archive.addfile(member, io.BytesIO(entry["content"]))
    return data.getvalue()


def seen(folder):
    """All that lies beneath a folder, itself included, with its content and metadata."""
    found = {}
    for here, folders, files in os.walk(folder):
        for path in (here, *(os.path.join(here, name) for name in (*folders, *files))):
            info = os.lstat(path)
            content = Path(path).read_bytes() if path.endswith("canary") else b""
            marks = os.listxattr(path, follow_symlinks=False)
            found[path] = (info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns, content, marks)
    return found


@pytest.fixture(scope="module")
def room():
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    (folder / "outside/a/b").mkdir(parents=True)
    for name in ("outside/canary", "outside/a/canary", "outside/a/b/canary"):
        (folder / name).write_text("alive")
    yield folder
    shutil.rmtree(folder)


def empty(folder):
    """Remove a folder that has others in it which nobody may enter."""
    folder.chmod(0o700)
    for here, folders, _ in os.walk(folder):
        for path in (Path(here, name) for name in folders):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)


UP_AND_OUT = {"kind": tarfile.SYMTYPE, "mode": 0o777, "content": b"", "xattrs": {}}
KNOWN = [
    [
        {**UP_AND_OUT, "name": "a", "link": OUTSIDE},
        {**UP_AND_OUT, "name": "a/canary", "link": "", "kind": tarfile.REGTYPE, "content": b"dead"},
        {**UP_AND_OUT, "name": "b", "link": f"{OUTSIDE}/canary", "kind": tarfile.LNKTYPE},
        {**UP_AND_OUT, "name": "b", "link": "", "kind": tarfile.REGTYPE, "content": b"dead"},
        {**UP_AND_OUT, "name": "a/.wh.canary", "link": "", "kind": tarfile.REGTYPE},
        {**UP_AND_OUT, "name": "a/.wh..wh..opq", "link": "", "kind": tarfile.REGTYPE},
        {**UP_AND_OUT, "name": "a", "link": "", "kind": tarfile.DIRTYPE, "mode": 0},
    ],
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members, max_size=12), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
@example(KNOWN[0], tarfile.PAX_FORMAT)
def test_nothing_outside_changes(room, entries, format):
    try:
        data = tar_of(entries, str(room / "outside"), format)
    except (ValueError, UnicodeError):  # tarfile writes no such names in this format
        return
    root, layer, blob = room / "inside/root", room / "inside/layer", room / "inside/blob"
    root.mkdir(parents=True)
    blob.write_bytes(data)
    before = seen(room / "outside")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(Broken, OSError):
            unpack(io.BytesIO(data), fd)
        with contextlib.suppress(OSError):
            unpack_layer(str(blob), str(layer), {})
        assert seen(room / "outside") == before
        assert sorted(os.listdir(room)) == ["inside", "outside"]
        assert set(os.listdir(room / "inside")) <= {"root", "layer", "blob"}
    finally:
        os.close(fd)
        empty(room / "inside")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=20))
def test_damage_is_an_archive_that_is_broken(room, noise, flips):
    """Whatever the bytes are: unpacked, or one clear error."""
    data = bytearray(
        tar_of([{**UP_AND_OUT, "name": "a/b", "link": "", "kind": tarfile.REGTYPE}] * 3, "", tarfile.PAX_FORMAT)
    )
    for position, byte in flips:
        data[position % len(data)] = byte
    root = room / "inside"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for archive in (noise, bytes(data)):
            with contextlib.suppress(Broken, OSError):
                unpack(io.BytesIO(archive), fd)
    finally:
        os.close(fd)
        empty(root)
