"""The image store on disk: what is kept, found, forgotten and cleaned up."""

import errno
import json
import os

import pytest

from pytest_capsule.errors import ImageNotFound, StoreError, UsageError
from pytest_capsule.oci.config import ImageConfig, RunConfig
from pytest_capsule.store import trees
from pytest_capsule.store.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    yield store
    store.close()


def layer(store, **files):
    with store.scratch() as scratch:
        for name, content in files.items():
            file = scratch / "fs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return store.adopt(scratch / "fs")


def image(store, number=0):
    return store.put(ImageConfig("amd64", config=RunConfig(user=str(number))), ())


def test_nobody_else_may_reach_into_it(tmp_path):
    """CVE-2021-41091: a setuid program of an image, run on the host by any of its users."""
    (tmp_path / "open").mkdir(mode=0o755)
    for folder in ("open", "new"):
        Store(tmp_path / folder).close()
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_a_layer_is_adopted_by_rename(store):
    with store.scratch() as scratch:
        (scratch / "fs").mkdir()
        (scratch / "fs/file").write_text("12345")
        inode = (scratch / "fs").stat().st_ino
        adopted = store.adopt(scratch / "fs")
    assert (os.stat(adopted.path).st_ino, adopted.size) == (inode, 5)
    assert store.layer(adopted.id) == adopted
    assert not scratch.exists()


def test_an_image_is_found_by_all_its_names(store):
    kept = store.put(ImageConfig("amd64"), (layer(store, file="x"),))
    for reference in ("app", "app:1", "example.org:5000/team/app:2"):
        store.tag(kept, reference)
    named = store.get(kept.id)
    assert named.tags == ("app:1", "app:latest", "example.org:5000/team/app:2")
    texts = ("app", "app:latest", "docker.io/library/app", "app:1", "example.org:5000/team/app:2")
    for text in (*texts, kept.id, kept.short_id, kept.id[7:11], f"sha256:{kept.id[7:20]}"):
        assert store.find(text) == kept, text
    assert store.find("app:3") is None
    assert store.find("ffffffffffff") is None
    assert store.put(kept.config, kept.layers).id == kept.id


def test_a_tag_moves_and_goes(store):
    first, second = image(store, 1), image(store, 2)
    store.tag(first, "app")
    store.tag(second, "app")
    assert store.find("app") == second
    assert store.get(first.id).tags == ()
    assert store.untag("app")
    assert not store.untag("app")
    assert store.get(second.id) == second
    store.tag(second, "one")
    store.tag(second, "two")
    store.remove(second)  # a value from before it was tagged
    assert store.find("one") is None
    assert list((store.root / "references").iterdir()) == []
    with pytest.raises(ImageNotFound):
        store.get(second.id)


def test_a_tag_that_is_there_is_not_written_again(store):
    kept = image(store, 1)
    store.tag(kept, "app")
    (reference,) = (store.root / "references").iterdir()
    written = reference.stat()
    assert store.tag(kept, "app").tags == ("app:latest",)
    assert reference.stat() == written


def test_an_ambiguous_beginning_of_an_id(store):
    for digits in ("abcd1", "abcd2"):
        (store.root / "images" / f"{digits:0<64}.json").write_text("{}")
    with pytest.raises(UsageError, match="beginning of 2 image ids") as caught:
        store.find("abcd")
    assert "abcd10000000, abcd20000000" in caught.value.hint


def test_a_name_that_looks_like_an_id_is_a_name(store):
    named, other = image(store, 1), image(store, 2)
    store.tag(named, "cafe")
    store.tag(named, other.short_id)
    assert store.find("cafe") == named
    assert store.find(other.short_id) == named
    assert store.find(f"sha256:{other.short_id}") == other


def test_images_are_listed_from_the_newest(store):
    made = [image(store, number) for number in range(3)]
    for age, one in enumerate(made):
        os.utime(store.root / "images" / f"{one.id[7:]}.json", (1000 + age, 1000 + age))
    assert store.images() == list(reversed(made))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"config": 1}', "\xff", '{"layers": []}'])
def test_damaged_files_are_named(store, content):
    kept = store.put(ImageConfig("amd64"), (layer(store, file="x"),))
    store.keep_step("0" * 64, {"layer": kept.layers[0].id, "created": ""})
    looks = {
        store.root / "images" / f"{kept.id[7:]}.json": lambda: store.get(kept.id),
        store.root / "steps" / f"{'0' * 64}.json": lambda: store.step("0" * 64),
        store.root / "layers" / kept.layers[0].id / "layer.json": lambda: store.layer(kept.layers[0].id),
    }
    for path, look in looks.items():
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(StoreError, match="is damaged") as caught:
            look()
        assert caught.value.path == str(path)
        assert "remove that file" in caught.value.hint


def test_an_image_config_that_is_none_is_named(store):
    kept = image(store)
    path = store.root / "images" / f"{kept.id[7:]}.json"
    path.write_text(json.dumps({"config": {"rootfs": {"type": "tape"}}, "layers": [], "host_directories": []}))
    with pytest.raises(StoreError, match="must be 'layers'"):
        store.get(kept.id)


def test_a_missing_layer(store):
    kept = store.put(ImageConfig("amd64"), (layer(store, file="x"),))
    store.keep_step("key", {"layer": kept.layers[0].id, "created": ""})
    assert store.step("key")
    trees.remove(str(store.root / "layers" / kept.layers[0].id))
    assert store.step("key") is None, "the step is carried out anew"
    with pytest.raises(StoreError, match="missing from the store"):
        store.get(kept.id)


def test_what_dead_engines_left_is_collected_and_the_living_are_left_alone(tmp_path, store):
    dead = store.root / "tmp" / "dead"
    (dead / "scratch/fs/deep").mkdir(parents=True)
    (dead / "scratch/fs/deep/file").write_text("x")
    (dead / "scratch/fs/deep").chmod(0)
    dead.with_suffix(".lock").touch()
    other = Store(store.root)
    other.collect()
    assert not dead.exists()
    assert not dead.with_suffix(".lock").exists()
    assert store.mountpoint.exists()
    other.close()
    store.collect()
    assert store.mountpoint.exists()
    assert len(list((store.root / "tmp").iterdir())) == 2, "its folder and its lock"


def test_closing_leaves_nothing_in_tmp(tmp_path):
    store = Store(tmp_path / "store")
    with store.scratch() as scratch:
        (scratch / "left").touch()
        store.close()
    assert list((tmp_path / "store/tmp").iterdir()) == []


def test_a_full_disk_is_told(store):
    with (
        pytest.raises(StoreError, match="the disk of the image store") as caught,
        store.scratch() as scratch,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))
    assert "capsule prune" in caught.value.hint
    assert not scratch.exists()


def test_trees_are_measured_and_removed_whatever_they_hold(tmp_path):
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/file").write_text("12345")
    os.link(tree / "deep/file", tree / "again")
    os.symlink("/etc/passwd", tree / "link")
    os.symlink("/etc", tree / "folder-link")
    os.mkfifo(tree / "fifo")
    assert trees.measure(str(tree))[0] == 5
    (tree / "deep").chmod(0)
    trees.remove(str(tree))
    assert not tree.exists()
    assert os.path.exists("/etc/passwd")
    trees.remove(str(tree))


def test_a_tree_deeper_than_calls_and_descriptors_go_is_removed(tmp_path):
    """What a container has left: were it not removed, no engine could ever use that store again."""
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(OSError, match="too long"):
        trees.measure(str(tmp_path / "tree"))
    trees.remove(str(tmp_path / "tree"))
    assert not any(tmp_path.iterdir())
