"""Engines killed at any moment of what they do: the store that they leave opens clean, and all can be done again."""

import io
import subprocess
import sys
import tarfile

import pytest

from pytest_capsule import Engine

# Dies in the place of the call, of that number, that changes a name on the disk, or behind one that begins to write a
# file: between two nothing is to be seen, but for a file that is there and not yet whole. Reads the numbers, and forks
# for each, so that all is imported once; tells how each has ended.
DYING = """\
import builtins, io, os, sys
from pathlib import Path
from pytest_capsule import ContainerSpec, Engine, archives, commits, workshop
from pytest_capsule.build import builder
from pytest_capsule.errors import BuildError

left = 0


def tick():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)


def dying(real):
    def call(*args, **kwargs):
        tick()
        return real(*args, **kwargs)
    return call


def dying_within(real):
    def call(path, *args, **kwargs):
        open_really(path, "wb").close()
        tick()
        return real(path, *args, **kwargs)
    return call


def dying_behind(real):
    def call(file, mode="r", *args, **kwargs):
        opened = real(file, mode, *args, **kwargs)
        if not set(mode).isdisjoint("wxa"):
            tick()
        return opened
    return call


def do(engine):
    {work}


open_really = open
for number in sys.stdin:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    left = int(number)
    with Engine(sys.argv[1]) as engine:
        for name in ("rename", "replace", "unlink", "link", "mkdir", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
        Path.write_bytes, Path.write_text = dying_within(Path.write_bytes), dying_within(Path.write_text)
        builtins.open = dying_behind(open)
        do(engine)
    sys.exit()
"""
WORK = {
    "commit": (
        'with engine.run("hello-world", command=[]) as container:\n'
        '        container.write_text("/file", "text")\n'
        '        container.commit("kept:1")'
    ),
    "commit that ends": (
        'with engine.start(ContainerSpec.of("hello-world", command=[]), to_keep=True) as container:\n'
        '        container.write_text("/file", "text")\n'
        '        container.commit("kept:1", end=True)'
    ),
    "import": 'engine.import_rootfs("rootfs.tar", "kept:1")',
    "save": 'engine.save("base:1", "saved.tar"); engine.tag("base:1", "kept:1")',
    "id": 'engine.image("base:1").id; engine.image("base:1").digest; engine.tag("base:1", "kept:1")',
    "remove": 'engine.remove("base:1"); engine.tag("hello-world", "kept:1")',
    "build": 'engine.build("made", tag="kept:1")',
    "failing build": (
        "try:\n"
        '        engine.build("failing", tag="kept:1")\n'
        "    except BuildError as error:\n"
        '        engine.tag(error.image, "kept:1")'
    ),
}
DOCKERFILE = """\
FROM hello-world AS first
WORKDIR /w
COPY a b /w/
FROM hello-world
RUN --mount=type=cache,target=/c --mount=type=bind,target=/m ["/hello"]
COPY --from=first /w /w
"""


@pytest.mark.parametrize("work", WORK)
def test_whatever_it_was_doing(tmp_path, work):
    cache = tmp_path / "cache"
    with tarfile.open(tmp_path / "rootfs.tar", "w") as rootfs:
        member = tarfile.TarInfo("file")
        member.size = 4
        rootfs.addfile(member, io.BytesIO(b"text"))
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nCOPY rootfs.tar /file\n")
    for folder, more in (("made", ""), ("failing", 'RUN ["/missing"]\n')):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            (tmp_path / folder / name).write_text(name)
        (tmp_path / folder / "Dockerfile").write_text(DOCKERFILE + more)
    script = [sys.executable, "-c", DYING.format(work=WORK[work]), str(cache)]
    code = None
    with subprocess.Popen(script, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as dying:
        for moment in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233):
            with Engine(cache_dir=cache) as engine:
                engine.prune(all=True)  # so that all is to be done, each time
                engine.build(tmp_path, tag="base:1")
            print(moment, file=dying.stdin, flush=True)
            code = int(dying.stdout.readline())
            assert code in (0, -9), "what it said is among what was captured"
            look_at(cache, tmp_path, moment)
            if code == 0:
                break
        dying.stdin.close()
    assert code == 0
    with Engine(cache_dir=cache) as engine:
        assert engine.image("kept:1")


def look_at(cache, folder, moment):
    """Whether all is as if it had never begun, or was done."""
    with Engine(cache_dir=cache) as engine:
        assert engine.verify().problems == (), moment
        assert len(list((engine._store.root / "tmp").glob("*.lock"))) == 1, "what it was working on is gone"
        for image in engine.images():
            with engine.run(image, command=[]) as container:
                assert container.listdir("/")
        with engine.run(engine.build(folder / "made"), command=[]) as container:
            assert (container.read_text("/w/a"), container.read_text("/w/b")) == ("a", "b"), moment
        if (folder / "saved.tar").exists():
            assert engine.load(folder / "saved.tar"), "it is whole, or not there"
