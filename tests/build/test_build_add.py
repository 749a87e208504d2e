"""ADD: what COPY does, and archives unpacked."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from functools import partial

import pytest
from compressions import needs_zstd, zstd

from pytest_capsule.errors import BuildError

COMPRESS = [
    bytes,
    gzip.compress,
    bz2.compress,
    partial(lzma.compress, preset=0),  # by default it tries for seconds
    pytest.param(zstd, marks=needs_zstd),
]
NAMES = ["tar", "gzip", "bzip2", "xz", "zstd"]


def archive(**files):
    """A tar with these files, each of another owner than root."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o640, 1_500_000_000
            tar.addfile(member, io.BytesIO(content.encode()))
    return data.getvalue()


@pytest.mark.parametrize("compress", COMPRESS, ids=NAMES)
def test_an_archive_is_unpacked_whatever_it_is_called(project, status, compress):
    project.write("no-extension", compress(archive(file="text", other="more")))
    image = project.build("FROM scratch\nADD no-extension /into\n")
    with project.files(image) as container:
        assert container.listdir("/into") == ["file", "other"]
        assert container.read_text("/into/file") == "text"
        info = status(container, "/into/file")
    assert (stat.S_IMODE(info.mode), info.mtime_ns) == (0o640, 1_500_000_000 * 10**9)


def test_what_is_no_archive_is_copied(project):
    project.write("notes.gz", gzip.compress(b"only text"))
    project.write("plain.tar", "no tar at all")
    project.write("dir/inner.tar", archive(file="text"))
    project.write("file", "f")
    image = project.build("FROM scratch\nADD notes.gz plain.tar dir file /in/\nADD file /renamed\n")
    with project.files(image) as container:
        assert container.listdir("/in") == ["file", "inner.tar", "notes.gz", "plain.tar"], "nor one within a folder"
        assert gzip.decompress(container.read_bytes("/in/notes.gz")) == b"only text"
    assert image.config.history[-1].created_by == "ADD file /renamed # buildkit"


def test_unpack_false_copies_the_archive(project):
    project.write("a.tar", archive(file="text"))
    with project.files(project.build("FROM scratch\nADD --unpack=false a.tar /in/\n")) as container:
        assert container.listdir("/in") == ["a.tar"]


@pytest.mark.identities("root", "range")
def test_owners_are_the_archives_or_chowns(project, status):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.uid, member.gid = 12, 34
        tar.addfile(member)
    project.write("a.tar", data.getvalue())
    with project.files(project.build("FROM scratch\nADD a.tar /kept/\nADD --chown=5:6 a.tar /given/\n")) as container:
        owners = {
            path: (status(container, path).uid, status(container, path).gid) for path in ("/kept/file", "/given/file")
        }
    assert owners == {"/kept/file": (12, 34), "/given/file": (5, 6)}


@pytest.mark.parametrize("compress", COMPRESS, ids=NAMES)
def test_a_broken_archive_fails_the_step(project, names_in, compress):
    data = compress(archive(file="text", big=os.urandom(2 << 20).hex()))
    project.write("broken.tar", data[: len(data) // 2])
    with pytest.raises(BuildError, match=r"broken.tar") as caught:
        project.build("FROM scratch\nADD broken.tar /in/\n")
    assert (caught.value.line, caught.value.step) == (2, "ADD broken.tar /in/")
    assert project.engine.image(caught.value.image).layers == (), "no half of it became a layer"


def test_a_changed_archive_misses_the_cache(project):
    project.write("a.tar", archive(file="one"))
    project.build("FROM scratch\nADD a.tar /changing/\n")
    project.write("a.tar", archive(file="two"))
    with project.files(project.build()) as container:
        assert container.read_text("/changing/file") == "two"
    assert project.kinds() == ["done"]
