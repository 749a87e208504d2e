"""``SOURCE_DATE_EPOCH``: the same context gives the same image, byte for byte, wherever and whenever it is built."""

import io
import os
import tarfile

import pytest

from pytest_capsule import Engine, UsageError

EPOCH = 1_600_000_000
TEXT = "2020-09-13T12:26:40Z"
DOCKERFILE = """\
FROM {base} AS made
RUN mkdir -p /made/deep && echo made > /made/deep/file && ln -s deep /made/link && rm -rf /opt/gone
FROM scratch
LABEL some=label
WORKDIR /work
COPY . .
COPY --from=made /made /made
COPY <<EOF /inline
text
EOF
ADD archive.tar /unpacked/
CMD ["run"]
"""


def context(folder, mtime):
    """A context that was checked out at ``mtime``."""
    (folder / "dir").mkdir(parents=True)
    (folder / "dir/file").write_text("content")
    (folder / "link").symlink_to("dir/file")
    with tarfile.open(folder / "archive.tar", "w") as tar:
        for name, time in (("old", 1_000_000_000), ("new", 1_700_000_000)):
            member = tarfile.TarInfo(name)
            member.mtime = time
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    for path in (folder / "dir/file", folder / "link", folder / "dir", folder / "archive.tar", folder):
        os.utime(path, (mtime, mtime), follow_symlinks=False)
    return folder


def times(layer):
    return {
        name: int(os.lstat(os.path.join(folder, name)).st_mtime)
        for folder, folders, files in os.walk(layer.path)
        for name in (*folders, *files)
    }


def test_two_machines_make_the_same_image(tmp_path):
    """Each has a cache of its own, and a checkout of another day; one was before the epoch."""
    digests = []
    for name, mtime in (("one", EPOCH - 1000), ("two", 1_750_000_000)):
        checkout = context(tmp_path / name / "app", mtime)
        (checkout / "Dockerfile").write_text(DOCKERFILE.format(base="capsule/host"))
        os.utime(checkout / "Dockerfile", (mtime, mtime))
        os.utime(checkout, (mtime, mtime))
        with Engine(cache_dir=tmp_path / name / "cache") as engine:
            image = engine.build(checkout, build_args={"SOURCE_DATE_EPOCH": str(EPOCH)})
            digests.append(image.digest)
            assert image.config.created == TEXT
            assert {entry.created for entry in image.config.history} == {TEXT}
            found = {name: time for layer in image.layers for name, time in times(layer).items()}
            assert found.pop("old") == 1_000_000_000, "an archive's own times are kept where they are not later"
            assert set(found.values()) == {EPOCH}
            again = engine.build(checkout, build_args={"SOURCE_DATE_EPOCH": str(EPOCH)}, no_cache=True)
            assert again.digest == image.digest
    assert digests[0] == digests[1]


def test_what_a_run_makes_is_not_later(project):
    image = project.build(
        "FROM capsule/host\nRUN echo now > /now; echo old > /old; touch -d @1000000000 /old\n",
        build_args={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )
    found = times(image.layers[-1])
    assert (found["now"], found["old"]) == (EPOCH, 1_000_000_000)


def test_from_the_environment_and_by_an_argument_of_the_dockerfile(project, monkeypatch):
    text = "FROM scratch\nWORKDIR /epoch\n"
    assert project.build(text).config.created != TEXT
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    assert project.build(text).config.created == TEXT
    assert project.build(text, build_args={"SOURCE_DATE_EPOCH": ""}).config.created != TEXT, "none is asked for"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert project.build(f"ARG SOURCE_DATE_EPOCH={EPOCH}\n{text}").config.created == TEXT


def test_a_run_sees_it_where_it_is_declared(project):
    text = "FROM capsule/host\nRUN echo 1: $SOURCE_DATE_EPOCH\nARG SOURCE_DATE_EPOCH\nRUN echo 2: $SOURCE_DATE_EPOCH\n"
    project.build(text, build_args={"SOURCE_DATE_EPOCH": str(EPOCH)})
    assert project.output() == f"1:\n2: {EPOCH}\n"


def test_another_epoch_makes_other_layers(project):
    text = "FROM scratch\nWORKDIR /other-epoch\n"
    project.build(text, build_args={"SOURCE_DATE_EPOCH": "1"})
    project.build(text, build_args={"SOURCE_DATE_EPOCH": "2"})
    assert [event.text for event in project.events if event.kind == "start" and event.step] == [
        "SOURCE_DATE_EPOCH 1 → 2"
    ]


def test_times_of_the_base_that_are_earlier_stay(project):
    project.build("FROM scratch\nWORKDIR /base\n", tag="old-base", build_args={"SOURCE_DATE_EPOCH": "1000"})
    image = project.build("FROM old-base\nWORKDIR /more\n", build_args={"SOURCE_DATE_EPOCH": str(EPOCH)})
    assert [entry.created for entry in image.config.history] == ["1970-01-01T00:16:40Z", TEXT]
    image = project.build("FROM old-base\nWORKDIR /more\n", build_args={"SOURCE_DATE_EPOCH": "10"})
    assert [entry.created for entry in image.config.history] == ["1970-01-01T00:00:10Z"] * 2


@pytest.mark.parametrize("value", ["yesterday", "1.5", "99999999999999999999"])
def test_what_is_no_time(project, value):
    with pytest.raises(UsageError, match="seconds since 1970"):
        project.build("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": value})
