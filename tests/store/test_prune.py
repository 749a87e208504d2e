"""What is removed from a store, and what never is: by hand, by the limit, beside other processes, killed half way."""

import os
import subprocess
import sys
import threading

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import ImageNotFound, UsageError
from pytest_capsule.store import collection


@pytest.fixture
def engine(tmp_path):
    with Engine(cache_dir=tmp_path / "cache") as engine:
        engine.image("hello-world")
        yield engine


def build(engine, tmp_path, name, size=1000, tag=None, base="hello-world", below=()):
    """An image with one more layer of ``size`` bytes."""
    folder = tmp_path / f"context-{name}"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_bytes(b"x" * size)
    lines = [f"FROM {base}", *below, f"COPY file /{name}"]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    image = engine.build(folder, tag=tag)
    return engine.image(image.id)


def layers_of(engine):
    return {path.name for path in (engine._store.root / "layers").iterdir()}


def blobs_of(engine):
    return set(engine._store.content.all())


def age(engine, image, seconds):
    """As if the image's own layer had been used that long ago."""
    path = engine._store.root / "layers" / image.layers[-1].id / "layer.json"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_images_without_a_name_go_and_the_build_cache_stays(engine, tmp_path):
    nameless = build(engine, tmp_path, "nameless")
    named = build(engine, tmp_path, "named", tag="named:1")
    gone = engine.prune()
    assert (gone.images, gone.names, gone.layers, gone.size) == ((nameless.id,), (), 0, 0)
    with pytest.raises(ImageNotFound):
        engine.image(nameless.id)
    assert engine.image("named:1") == named
    assert build(engine, tmp_path, "nameless") == nameless, "from the cache"
    assert engine.prune().images == (nameless.id,)


def test_the_build_cache_goes_when_asked_and_frees_its_bytes(engine, tmp_path):
    build(engine, tmp_path, "nameless", size=5000)
    named = build(engine, tmp_path, "named", tag="named:1")
    before = layers_of(engine)
    gone = engine.prune(build_cache=True)
    assert (len(gone.images), gone.steps, gone.layers, gone.size) == (1, 1, 1, 5000)
    assert len(before - layers_of(engine)) == 1
    assert build(engine, tmp_path, "named") == named, "the step of an image that stays is no waste, and stays as well"


def test_all_goes_but_what_is_built_in(engine, tmp_path):
    build(engine, tmp_path, "named", tag="named:1", size=3000)
    engine.image("named:1").packed()
    assert engine.prune(all=True).names == ("named:1",)
    assert [image.tags for image in engine.images()] == [("hello-world",)]
    assert len(layers_of(engine)) == 1
    assert blobs_of(engine) == set()
    with engine.run("hello-world") as container:
        assert container.wait(timeout=60) == 0


def test_what_is_loaded_and_removed_frees_its_layers_and_blobs(engine, tmp_path):
    build(engine, tmp_path, "named", tag="named:1", size=3000)
    engine.save("named:1", tmp_path / "image.tar")
    with Engine(cache_dir=tmp_path / "other") as other:
        other.load(tmp_path / "image.tar")
        assert other.prune().layers == 0, "only the lists of the archive itself"
        other.remove("named:1")
        gone = other.prune()
        assert (gone.layers, gone.blobs) == (2, 4)
        assert gone.size > 4000
        assert other.load(tmp_path / "image.tar")[0].tags == ("named:1",)


def test_nothing_goes_that_a_container_uses(engine, tmp_path):
    image = build(engine, tmp_path, "nameless")
    with engine.run(image, command=[]) as container:
        assert engine.prune(all=True) == collection.Pruned()
        assert container.exists("/nameless")
    assert engine.prune(all=True).images == (image.id,)


def test_nothing_goes_that_the_same_engine_is_working_on(engine, tmp_path):
    """A build in one thread, and in another somebody who makes room, at each of its events."""
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nCOPY file /one\nCOPY file /two\nCOPY file /three\n")
    (tmp_path / "file").write_text("x")
    times = []

    def make_room(event):
        times.append(engine.prune(all=True))

    image = engine.build(tmp_path, tag="made:1", progress=make_room)
    assert len(times) > 3
    with engine.run(image, command=[]) as container:
        assert {"one", "two", "three", "hello"} <= {*container.listdir("/")}


def test_nothing_goes_that_another_process_uses(engine, tmp_path):
    image = build(engine, tmp_path, "named", tag="named:1")
    program = (
        "import sys; from pytest_capsule import Engine; engine = Engine(sys.argv[1]); engine.image('named:1');"
        "print('has it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"has it\n"
        with Engine(cache_dir=tmp_path / "cache") as third:
            assert third.prune(all=True) == collection.Pruned()
            assert third.image("named:1") == image
        other.kill()
    with Engine(cache_dir=tmp_path / "cache") as third:
        engine.close()
        assert third.prune(all=True).names == ("named:1",)


def test_a_limit_removes_what_was_not_used_for_longest(engine, tmp_path):
    images = {name: build(engine, tmp_path, name, size=10_000) for name in ("a", "b", "c")}
    named = build(engine, tmp_path, "named", size=10_000, tag="named:1")
    for name, seconds in (("b", 300), ("c", 200), ("a", 100)):
        age(engine, images[name], seconds)
    age(engine, named, 1000)
    whole = collection.size(engine._store)
    gone = engine.prune(build_cache=True, keep=whole - 15_000)
    assert set(gone.images) == {images["b"].id, images["c"].id}
    assert gone.size == 20_000
    assert engine.prune(build_cache=True, keep="1g") == collection.Pruned()
    assert engine.image(images["a"].id)
    assert engine.prune(build_cache=True, keep=0).images == (images["a"].id,)
    assert engine.image("named:1") == named
    with pytest.raises(UsageError, match="'much' is no size"):
        engine.prune(keep="much")


def test_the_limit_of_an_engine_is_kept_when_it_closes(tmp_path):
    with Engine(cache_dir=tmp_path / "cache", cache_limit="12k") as engine:
        named = build(engine, tmp_path, "named", size=1000, tag="named:1")
        for name in "abc":
            build(engine, tmp_path, name, size=10_000)
        assert len(engine.images()) == 5
    with Engine(cache_dir=tmp_path / "cache") as engine:
        assert collection.size(engine._store) <= 12 << 10
        assert engine.image("named:1") == named


def test_two_images_share_what_stays(engine, tmp_path):
    base = build(engine, tmp_path, "base", size=2000, tag="base:1")
    top = build(engine, tmp_path, "top", size=3000, base="base:1", tag="top:1")
    assert top.layers[:-1] == base.layers
    engine.remove("top:1")
    assert engine.prune(build_cache=True).size == 3000
    assert engine.image("base:1") == base
    with engine.run("base:1", command=[]) as container:
        assert container.exists("/base")


def test_builds_and_pruning_beside_each_other(engine, tmp_path):
    """Whatever is removed meanwhile, a build gives an image that runs: its steps are in use or carried out anew."""
    errors = []
    stop = threading.Event()

    def clean():
        with Engine(cache_dir=tmp_path / "cache") as other:
            while not stop.is_set():
                other.prune(all=True)

    thread = threading.Thread(target=clean)
    thread.start()
    try:
        for number in range(8):
            below = [f"COPY file /{step}" for step in range(3)]
            with Engine(cache_dir=tmp_path / "cache") as builder:
                image = build(builder, tmp_path, "raced", size=100 + number % 3, below=below)
                with builder.run(image, command=[]) as container:
                    if not all(container.exists(f"/{name}") for name in ("0", "1", "2", "raced")):
                        errors.append(number)
    finally:
        stop.set()
        thread.join()
    assert errors == []


def test_pruning_that_is_killed_is_harmless(engine, tmp_path):
    """At any moment: what is left opens, runs, and is cleaned up by the next."""
    program = (
        "import os, sys\n"
        "from pytest_capsule import Engine\n"
        "calls = int(sys.argv[2])\n"
        "def dying(real):\n"
        "    def call(*args, **kwargs):\n"
        "        global calls\n"
        "        calls -= 1\n"
        "        if calls < 0: os.kill(os.getpid(), 9)\n"
        "        return real(*args, **kwargs)\n"
        "    return call\n"
        "engine = Engine(sys.argv[1])\n"
        "os.rename, os.unlink = dying(os.rename), dying(os.unlink)\n"
        "engine.prune(all=True)\n"
        "print('done')\n"
    )
    cache = tmp_path / "killed"
    done = False
    for moment in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
        with Engine(cache_dir=cache) as other:
            for name in ("one", "two"):
                build(other, tmp_path, name, tag=f"{name}:1")
            other.image("one:1").packed()
        command = [sys.executable, "-c", program, str(cache), str(moment)]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        with Engine(cache_dir=cache) as other:
            for image in other.images():
                with other.run(image, command=[]) as container:
                    container.listdir("/")
            other.prune(all=True)
            assert len(layers_of(other)) == 1, "hello-world's"
            assert blobs_of(other) == set()
        if said == "done\n":
            done = True
            break
    assert done
