"""``capsule check --store``: what is damaged is found, and mended so that the next who needs it has it again."""

import os

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import ImageNotFound
from pytest_capsule.oci.digest import Digest


@pytest.fixture
def cache(tmp_path):
    """A store with an image that was built and packed, one that was loaded, and nobody who uses them."""
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nCOPY file /file\n")
    (tmp_path / "file").write_text("content")
    with Engine(cache_dir=tmp_path / "other") as other:
        other.build(tmp_path, tag="loaded:1")
        other.save("loaded:1", tmp_path / "loaded.tar")
    (tmp_path / "file").write_text("another")
    with Engine(cache_dir=tmp_path / "cache") as engine:
        engine.build(tmp_path, tag="built:1").packed()
        engine.load(tmp_path / "loaded.tar")
    return tmp_path / "cache"


def verified(cache):
    with Engine(cache_dir=cache) as engine:
        return engine.verify()


def problems(cache):
    return [(problem.what.split()[0], problem.why) for problem in verified(cache).problems]


def path_of_file(cache, name):
    with Engine(cache_dir=cache) as engine:
        return os.path.join(engine.image(name).layers[-1].path, "file")


def change(path, *, back_to=None):
    before = os.stat(path)
    with open(path, "r+") as file:
        file.write("CHANGED")
    assert os.stat(path).st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns if back_to is None else back_to))


def test_a_whole_store(cache):
    found = verified(cache)
    assert found.problems == ()
    assert (found.images, found.layers) == (3, 4)
    assert found.blobs > 6


@pytest.mark.parametrize("name", ["built:1", "loaded:1"])
def test_a_changed_file_of_a_layer(cache, name, tmp_path):
    change(path_of_file(cache, name))
    layer, *rest = problems(cache)
    assert (layer[0], layer[1][:15]) == ("layer", "its files are s")
    assert [what for what, _ in rest] == ["step", "image", "name"]
    assert problems(cache) == [], "all of it was mended"
    with Engine(cache_dir=cache) as engine:
        with pytest.raises(ImageNotFound):
            engine.image(name)
        image = engine.build(tmp_path) if name == "built:1" else engine.load(tmp_path / "loaded.tar")[0]
        with engine.run(image, command=[]) as container:
            assert container.read_text("/file") == ("another" if name == "built:1" else "content")


@pytest.fixture
def built(tmp_path):
    """A store with an image of which nobody has asked for a digest."""
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nCOPY file /file\n")
    (tmp_path / "file").write_text("content")
    with Engine(cache_dir=tmp_path / "cache") as engine:
        engine.build(tmp_path, tag="built:1")
    return tmp_path / "cache"


def test_a_changed_file_of_a_layer_without_a_digest(built):
    path = path_of_file(built, "built:1")
    change(path, back_to=os.stat(path).st_mtime_ns + 1)
    assert problems(built)[0] == ("layer", "its files do not have the names, modes, sizes and times that they had")
    assert problems(built) == []


@pytest.mark.parametrize("damage", [os.chmod, os.rename])
def test_a_layer_without_a_digest_that_looks_otherwise(built, damage):
    path = path_of_file(built, "built:1")
    damage(path, 0o600 if damage is os.chmod else f"{path}2")
    assert problems(built)[0][0] == "layer"


def test_the_first_look_gives_a_layer_its_digest_for_the_next(built):
    assert problems(built) == []
    with Engine(cache_dir=built) as engine:
        image = engine.image("built:1")
        assert image.id == str(image.packed().manifest.config.digest)
    assert problems(built) == []
    change(path_of_file(built, "built:1"))
    assert problems(built)[0][1].startswith("its files are sha256:")


def test_a_lost_file_of_a_layer(cache):
    os.unlink(path_of_file(cache, "built:1"))
    assert problems(cache)[0] == ("layer", "its files have 0 bytes, and had 7")


def test_a_damaged_blob_is_packed_again(cache):
    with Engine(cache_dir=cache) as engine:
        digest = engine.image("built:1").digest
        layer = engine.image("built:1").packed().manifest.layers[-1]
        path = engine._store.content.path(layer.digest)
    path.write_bytes(b"damaged")
    assert problems(cache) == [("blob", f"its digest is {Digest.of(b'damaged')}")]
    with Engine(cache_dir=cache) as engine:
        assert engine.image("built:1").digest == digest
        assert engine._store.content.size(layer.digest) == layer.size


def test_damaged_and_lost_records(cache):
    with Engine(cache_dir=cache) as engine:
        root = engine._store.root
        built = engine.image("built:1")
        loaded = engine.image("loaded:1")
    (root / "images" / f"{built.id[7:]}.json").write_text("{")
    (root / "layers" / loaded.layers[-1].id / "layer.json").unlink()
    (root / "references" / "docker.io%2Flibrary%2Fnothing%3A1").write_text(f"sha256:{'0' * 64}")
    (root / "steps" / f"{'1' * 64}.json").write_text("[]")
    found = problems(cache)
    assert {"layer", "step", "image", "name"} == {what for what, _ in found}
    assert ("name", "its image is not there") in found
    assert ("step", "its record is damaged") in found
    assert problems(cache) == []


def test_what_is_in_use_is_named_and_left(cache):
    path = path_of_file(cache, "built:1")
    with Engine(cache_dir=cache) as user:
        user.image("built:1")
        os.unlink(path)
        (problem,) = verified(cache).problems
        assert (problem.why, problem.mended) == ("its files have 0 bytes, and had 7", "")
        assert "it is in use" in str(problem)
    assert verified(cache).problems[0].mended
