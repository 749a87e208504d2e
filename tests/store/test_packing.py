"""Images out of the store into OCI form and back, through the engine: the same files, the same digests."""

import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest
from compressions import needs_zstd, zstd

from pytest_capsule import Engine
from pytest_capsule.errors import ContentMismatch, ImageNotFound, MalformedImage, StoreError
from pytest_capsule.oci.config import History, ImageConfig
from pytest_capsule.oci.descriptor import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Manifest
from pytest_capsule.oci.platform import Platform

HOST = Platform.host(os.uname().machine)
OTHER = "s390x" if HOST.architecture != "s390x" else "riscv64"


@pytest.fixture
def engine(tmp_path):
    with Engine(cache_dir=tmp_path / "cache") as engine:
        yield engine


@pytest.fixture
def another(tmp_path):
    with Engine(cache_dir=tmp_path / "another") as engine:
        yield engine


def tar(*members):
    """A tar of ``(name, content)``, or of ``TarInfo``."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def directory(name, mode=0o755, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def make(engine, *layers, architecture=HOST.architecture, history=None, diff_ids=None, **manifest):
    """Put an image of these tars into the content of an engine's store; returns its manifest's descriptor."""
    content = engine._store.content
    history = history if history is not None else tuple(History(created_by=f"layer {n}") for n in range(len(layers)))
    config = ImageConfig(
        architecture, diff_ids=diff_ids or tuple(Digest.of(layer) for layer in layers), history=history
    )
    data = config.to_json()
    content.add(data)
    blobs = [gzip.compress(layer, mtime=0) for layer in layers]
    for blob in blobs:
        content.add(blob)
    made = Manifest(
        Descriptor.of(data, OCI_CONFIG), tuple(Descriptor.of(blob, OCI_LAYER_GZIP) for blob in blobs), **manifest
    )
    data = made.to_json()
    content.add(data)
    return Descriptor.of(data, OCI_MANIFEST)


def carry(packed, source, target):
    """Copy an image's blobs from one store into another."""
    for blob in (packed.manifest.config, *packed.manifest.layers):
        with target._store.content.write(blob.digest, blob.size) as writer:
            writer.write(source._store.content.read(blob.digest))
    target._store.content.add(packed.data)


def test_a_built_image_goes_through_oci_form_unchanged(engine, another, tmp_path):
    (tmp_path / "Dockerfile").write_text(
        "FROM hello-world\nCOPY one /dir/one\nCOPY two /dir/two\nENV A=b\nLABEL x=y\nCMD ['/hello']\n"
    )
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    image = engine.build(tmp_path, tag="app:1")
    packed = image.packed()
    assert [layer.media_type for layer in packed.manifest.layers] == [OCI_LAYER_GZIP] * 3
    assert len(packed.config.diff_ids) == 3 == sum(not entry.empty_layer for entry in packed.config.history)
    for blob, diff_id in zip(packed.manifest.layers, packed.config.diff_ids, strict=True):
        data = engine._store.content.read(blob.digest)
        assert Digest.of(data) == blob.digest
        assert Digest.of(gzip.decompress(data)) == diff_id

    carry(packed, engine, another)
    arrived = another._packing.unpack(packed.descriptor)
    assert arrived.digest == image.digest
    assert arrived.diff_ids == image.diff_ids
    assert arrived.id == f"sha256:{hashlib.sha256(packed.config.to_json()).hexdigest()}"
    assert arrived.config.config == image.config.config
    with another.run(arrived, command=[]) as container:
        assert container.read_text("/dir/one") + container.read_text("/dir/two") == "12"


def test_the_id_is_the_digest_of_the_config_whenever_it_is_asked_for(engine, another, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nCOPY file /file\n")
    (tmp_path / "file").write_text("x")
    image = engine.build(tmp_path, tag="app")
    found = engine.image("app")
    before = image.key
    assert image.id == found.id != before
    assert image == found == engine.image("app") == engine.build(tmp_path)
    assert engine.image("app").key == image.id == engine.image(before).key
    assert image.id == str(image.packed().manifest.config.digest)
    assert image.id == f"sha256:{hashlib.sha256(image.packed().config.to_json()).hexdigest()}"
    assert [one.id for one in engine.images()].count(image.id) == 1
    engine.save("app", tmp_path / "app.tar")
    assert another.load(tmp_path / "app.tar")[0].id == image.id
    engine.remove(image)
    for name in (image.id, before, "app"):
        with pytest.raises(ImageNotFound):
            engine.image(name)
    assert engine.build(tmp_path).id == image.id


def test_a_build_on_an_image_whose_id_is_known_gives_the_same(engine, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text("FROM capsule/host\nCOPY Dockerfile /base\n")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/Dockerfile").write_text("FROM base\nCOPY Dockerfile /top\n")
    engine.build(tmp_path / "base", tag="base")
    first = engine.build(tmp_path / "top")
    assert engine.image("base").id
    second = engine.build(tmp_path / "top")
    assert first.id == second.id


def test_the_id_of_what_was_removed_brings_nothing_back(engine, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nLABEL x=y\n")
    image = engine.build(tmp_path)
    engine.remove(image)
    assert image.id
    assert [one.tags for one in engine.images()] == [("hello-world",)]


def test_digests_are_made_once_and_kept(engine, tmp_path, monkeypatch):
    image = engine.image("hello-world")
    first = image.digest
    monkeypatch.setattr(engine._crew, "call", None)
    assert engine.image("hello-world").digest == first


def test_the_same_bytes_in_another_store(engine, another):
    assert engine.image("hello-world").digest == another.image("hello-world").digest


def test_a_layer_is_unpacked_once_for_all_images(engine):
    shared = tar(("shared", b"x"))
    first = engine._packing.unpack(make(engine, shared, tar(("a", b"a"))))
    second = engine._packing.unpack(make(engine, tar(("b", b"b")), shared))
    assert first.layers[0] == second.layers[1]
    assert len({layer.id for image in (first, second) for layer in image.layers}) == 3


def test_a_directory_that_a_layer_only_implies_keeps_what_the_layers_below_say(engine):
    base = tar(directory("private", 0o1700), directory("private/inner", 0o750))
    above = tar(("private/inner/file", b"x"), ("new/deep/file", b"x"))
    stacked = engine._packing.unpack(make(engine, base, above))
    alone = engine._packing.unpack(make(engine, above))
    assert stacked.layers[1] != alone.layers[0]
    with engine.run(stacked, command=[]) as container:
        modes = {path: container._call({"op": "stat", "path": path, "follow": False})[0]["stat"]["mode"] & 0o7777
                 for path in ("/private", "/private/inner", "/new/deep")}  # fmt: skip
    assert modes == {"/private": 0o1700, "/private/inner": 0o750, "/new/deep": 0o755}


def test_a_layer_that_hides_all_below_it(engine, tmp_path):
    base = tar(directory("old", 0o700), ("old/file", b"x"), ("both", b"old"), ("implied/old", b"x"))
    opaque = tar((".wh..wh..opq", b""), ("both", b"new"), ("implied/new", b"x"))
    image = engine._packing.unpack(make(engine, base, opaque, tar(("top", b"x"))))
    engine.tag(image, "opaque:1")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY --from=opaque:1 / /copied/\n")
    copied = engine.build(tmp_path)
    for shown, root in ((image, "/"), (copied, "/copied/")):
        with engine.run(shown, command=[]) as container:
            assert {"both", "implied", "top"} == {*container.listdir(root)} - {"proc", "sys", "dev", "etc", "copied"}
            assert container.listdir(f"{root}implied") == ["new"]
            assert container.read_text(f"{root}both") == "new"
    assert engine._packing.unpack(make(engine, base)).layers[0] == image.layers[0], "it is hidden, not changed"


def test_a_layer_that_is_not_what_the_config_says_is_refused(engine):
    descriptor = make(engine, tar(("a", b"a")), diff_ids=(Digest.of(b"something else"),))
    with pytest.raises(ContentMismatch, match="holds the files") as caught:
        engine._packing.unpack(descriptor)
    assert caught.value.digest == str(Digest.of(b"something else"))


def test_a_damaged_layer_is_named(engine):
    content = engine._store.content
    broken = gzip.compress(tar(("a", b"a" * 5000)))[:-20]
    config = ImageConfig("amd64", diff_ids=(Digest.of(b"whatever"),)).to_json()
    manifest = Manifest(Descriptor.of(config, OCI_CONFIG), (Descriptor.of(broken, OCI_LAYER_GZIP),)).to_json()
    for data in (broken, config, manifest):
        content.add(data)
    with pytest.raises(MalformedImage, match=f"layer {Digest.of(broken)}: the compressed stream"):
        engine._packing.unpack(Descriptor.of(manifest, OCI_MANIFEST))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diff_ids": (Digest.of(b"1"), Digest.of(b"2"))}, "the manifest has 1 layers and the config 2"),
        ({"history": (History(), History())}, "the history tells of 2 layers and there are 1"),
    ],
)
def test_an_image_that_does_not_agree_with_itself(engine, change, message):
    with pytest.raises(MalformedImage, match=message):
        engine._packing.unpack(make(engine, tar(("a", b"a")), **change))


def test_what_is_no_image_and_what_nobody_gives_out(engine):
    content = engine._store.content
    blob = Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json")
    foreign = Descriptor.of(b"{}", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    config = Descriptor.of(ImageConfig("amd64").to_json(), OCI_CONFIG)
    for manifest, message in (
        (Manifest(blob, artifact_type="application/x-thing"), "no image but an artifact of type 'application/x-thing'"),
        (Manifest(config, (foreign,)), "does not give out"),
        (Manifest(config, (blob,)), "is no layer of an image"),
    ):
        content.add(manifest.to_json())
        with pytest.raises(MalformedImage, match=message):
            engine._packing.unpack(Descriptor.of(manifest.to_json(), OCI_MANIFEST))


def test_a_missing_blob_is_named(engine):
    with pytest.raises(StoreError, match="missing from the store") as caught:
        engine._packing.unpack(Descriptor.of(b"nowhere", OCI_MANIFEST))
    assert "pull or load" in caught.value.hint


@pytest.mark.parametrize(
    ("compress", "media_type"),
    [(bytes, OCI_LAYER), pytest.param(zstd, OCI_LAYER_ZSTD, marks=needs_zstd)],
    ids=["uncompressed", "zstd"],
)
def test_a_layer_that_is_not_of_gzip(engine, compress, media_type):
    content = engine._store.content
    whole = tar(("file", b"x"))
    layer = compress(whole)
    config = ImageConfig(HOST.architecture, diff_ids=(Digest.of(whole),)).to_json()
    manifest = Manifest(Descriptor.of(config, OCI_CONFIG), (Descriptor.of(layer, media_type),)).to_json()
    for data in (layer, config, manifest):
        content.add(data)
    image = engine._packing.unpack(Descriptor.of(manifest, OCI_MANIFEST))
    assert image.digest == str(Digest.of(manifest)), "the bytes that it came with"
    assert json.loads(content.read(Digest.parse(image.digest)))["layers"][0]["digest"] == str(Digest.of(layer))
    with engine.run(image, command=[]) as container:
        assert container.read_text("/file") == "x"


# -- blobs -----------------------------------------------------------------------------------------------------------


def test_a_blob_is_verified_as_it_flows(engine):
    content = engine._store.content
    digest = Digest.of(b"right")
    for data, size, message in ((b"wrong", None, "has the digest"), (b"right!", 5, "6 bytes and should have 5")):
        with pytest.raises(ContentMismatch, match=message), content.write(digest, size) as blob:
            blob.write(data)
        assert not content.has(digest)
    with pytest.raises(KeyError), content.write(digest) as blob:
        blob.write(b"right")
        raise KeyError
    assert not content.has(digest)
    with content.write(digest, 5) as blob:
        blob.write(b"wro")
        blob.start_over()
        blob.write(b"ri")
        blob.write(memoryview(b"ght"))
    assert content.read(digest) == b"right"
    assert content.size(digest) == 5
    assert content.all() == [digest]
    assert [path.name for path in engine._store._own.iterdir() if path.name.startswith("blob")] == []
