"""What the cache takes into account, and what it does not."""

import os

import pytest

from pytest_capsule import Engine
from pytest_capsule.build.context import Context
from pytest_capsule.build.folders import HostFolder

pytestmark = pytest.mark.usefixtures("steady_host")

TWELVE = """\
FROM capsule/host
ARG VERSION=1
ENV MODE=test
WORKDIR /app
COPY src /app/src
RUN echo $VERSION > /version
COPY --chmod=755 run.sh /app/
RUN date +%s%N > /once
LABEL a=b
EXPOSE 80
RUN cat /once
CMD ["/app/run.sh"]
"""


@pytest.fixture
def app(project):
    """Twelve instructions, six of them file steps, built once; its sources are like no other test's."""
    project.write("src/case", str(project.root))
    for number in range(20):
        project.write(f"src/d{number % 3}/f{number}", str(number))
    project.write("run.sh", "#!/bin/sh\n")
    project.write("other", "not taken by anything")
    project.build(TWELVE)
    assert project.kinds()[1:] == ["done"] * 5
    return project


def test_an_unchanged_build_runs_nothing_and_gives_the_same_image(app):
    first = app.build()
    assert app.kinds() == ["cached"] * 6
    assert app.output() == ""
    assert app.build().id == first.id


def test_another_engine_finds_the_same(app, tmp_path):
    """Two that are new: one that is there has found out before what ``capsule/host`` is."""
    ids = []
    for _ in range(2):
        with Engine(cache_dir=tmp_path / "cache") as app.engine:
            ids.append(app.build().id)
    assert ids[0] == ids[1]
    assert app.kinds() == ["cached"] * 6


def test_a_changed_run_drops_the_cache_of_all_after_it(app):
    app.build(TWELVE.replace("RUN echo $VERSION", "RUN echo the $VERSION"))
    assert app.kinds() == ["cached", "cached", "done", "done", "done", "done"]
    app.build(TWELVE)
    assert app.kinds() == ["cached"] * 6, "and what was there before still is"


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ("LABEL a=b", "LABEL a=c", "cached cached cached cached cached cached"),
        ("EXPOSE 80", "EXPOSE 81", "cached cached cached cached cached cached"),
        ('CMD ["/app/run.sh"]', "CMD true", "cached cached cached cached cached cached"),
        ("ENV MODE=test", "ENV MODE=test\nMAINTAINER me", "cached cached cached cached cached cached"),
        ("# nothing", "", "cached cached cached cached cached cached"),
        ("ENV MODE=test", "ENV MODE=prod", "cached cached done done done done"),
        ("ARG VERSION=1", "ARG VERSION=2", "cached cached done done done done"),
        ("WORKDIR /app", "WORKDIR /elsewhere", "done done done done done done"),
        ("--chmod=755", "--chmod=700", "cached cached cached done done done"),
        ("COPY src /app/src", "COPY src /app/lib", "cached done done done done done"),
        ("COPY src /app/src", "COPY src/ /app/src/", "cached done done done done done"),
        ("LABEL a=b", 'SHELL ["/bin/bash", "-c"]', "cached cached cached cached cached done"),
        ("RUN cat /once", "RUN --network=none cat /once", "cached cached cached cached cached done"),
    ],
)
def test_a_changed_instruction(app, old, new, kinds):
    app.build(TWELVE.replace(old, new))
    assert app.kinds() == kinds.split()


@pytest.mark.identities("root", "range")
def test_a_changed_user(app):
    app.build(TWELVE.replace("LABEL a=b", "USER 5"))
    assert app.kinds() == ["cached"] * 5 + ["done"]


def test_build_arguments(app):
    app.build(build_args={"VERSION": "1"})
    assert app.kinds() == ["cached"] * 6, "the default, given"
    app.build(build_args={"UNKNOWN": "x"})
    assert app.kinds() == ["cached"] * 6, "what no ARG declares is not taken"
    app.build(build_args={"VERSION": "7"})
    assert app.kinds() == ["cached", "cached", "done", "done", "done", "done"]


def test_no_cache_does_all_anew_and_the_next_build_takes_that(app):
    first = app.build()
    anew = app.build(no_cache=True)
    assert app.kinds() == ["done"] * 6
    assert anew.id != first.id
    assert app.build().id == anew.id


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda file: os.utime(file, (1, 1)), "cached"),
        (lambda file: file.write_text(file.read_text()), "cached"),
        (lambda file: file.with_name("new").write_text("n"), "done"),
        (lambda file: file.write_text("changed"), "done"),
        (lambda file: file.chmod(0o600), "done"),
        (lambda file: file.rename(file.with_name("renamed")), "done"),
        (lambda file: file.unlink(), "done"),
        (lambda file: (file.with_name("empty")).mkdir(), "done"),
        (lambda file: file.parent.chmod(0o700), "done"),
        (lambda file: (file.unlink(), file.symlink_to("elsewhere")), "done"),
    ],
    ids="touched rewritten added changed chmod renamed removed folder folder-chmod linked".split(),
)
def test_what_is_copied_counts_by_content(app, change, kind):
    change(app.root / "src/d0/f0")
    app.build()
    assert app.kinds()[1] == kind


def test_a_symlinks_target_counts(project):
    link = project.root / "src/link"
    link.parent.mkdir()
    link.symlink_to("one")
    project.build("FROM scratch\nCOPY src /src\n")
    link.unlink()
    link.symlink_to("two")
    project.build()
    assert project.kinds() == ["done"]


def test_what_is_not_copied_does_not_count(app):
    app.write("other", "changed")
    app.write("new", "n")
    app.build()
    assert app.kinds() == ["cached"] * 6


def test_copy_from_counts_by_content_too(project):
    text = "FROM capsule/host AS made\nRUN echo same > /file\nFROM scratch\nCOPY --from=made /file /by-content\n"
    project.build(text)
    project.build(text.replace("echo same", "echo  same"))
    assert project.kinds() == ["done", "cached"], "another way to the same content"
    project.build(text.replace("echo same", "echo other"))
    assert project.kinds() == ["done", "done"]


class Reads(HostFolder):
    """A folder that notes which files were read."""

    def __init__(self, root):
        super().__init__(str(root))
        self.opened = []

    def open(self, path):
        self.opened.append(path)
        return super().open(path)


@pytest.fixture
def thousand(tmp_path):
    """A thousand files, written an hour ago as far as their times say."""
    for number in range(1000):
        file = tmp_path / f"src/d{number % 10}/f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
    return tmp_path


def test_an_unchanged_context_is_walked_and_not_read(thousand, monkeypatch):
    later(monkeypatch)
    first = Context(folder := Reads(thousand))
    before = first.find("src")
    assert len(folder.opened) == 1000
    assert first.changed
    second = Context(folder := Reads(thousand), memory=first.memory)
    assert second.find("src") == before
    assert folder.opened == []
    assert not second.changed


def clock_of_the_context(monkeypatch, now):
    from pytest_capsule.build import context

    class Clock:
        time_ns = staticmethod(now)

    monkeypatch.setattr(context, "time", Clock)


def later(monkeypatch):
    """Let the clock of the context be an hour ahead, so that no file looks as if it had just been written."""
    import time

    clock_of_the_context(monkeypatch, lambda: time.time_ns() + 3600 * 10**9)


def test_a_file_changed_within_the_same_tick_is_noticed(tmp_path, monkeypatch):
    """What was written just before it was read may change again and keep its times: it is read again next time."""
    file = tmp_path / "file"
    file.write_text("one")
    clock_of_the_context(monkeypatch, lambda: file.stat().st_ctime_ns)
    first = Context(HostFolder(str(tmp_path)))
    (before,) = first.find("file")
    assert first.memory == {}
    file.write_text("two")
    (after,) = Context(HostFolder(str(tmp_path)), memory=first.memory).find("file")
    assert before.entries[0].digest != after.entries[0].digest


def test_a_forged_mtime_is_noticed_by_the_ctime(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("one")
    info = file.stat()
    later(monkeypatch)
    first = Context(HostFolder(str(tmp_path)))
    first.find("file")
    with open(file, "r+") as same_inode:
        same_inode.write("two")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) == (3, info.st_mtime_ns, info.st_ino)
    second = Context(folder := Reads(tmp_path), memory=first.memory)
    second.find("file")
    assert folder.opened == ["file"]
