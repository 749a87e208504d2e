"""Images to Debian's docker-registry and back, through the engine."""

import json
import multiprocessing
import os
import threading

import pytest
from fake_registry import digest_of
from registry_peers import PASSWORD, USER, auths, write_config

from pytest_capsule import Engine
from pytest_capsule.errors import CapsuleError, ImageNotFound, RegistryError, UsageError
from pytest_capsule.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from pytest_capsule.oci.platform import Platform


@pytest.fixture
def new_engine(tmp_path, home):
    """Makes engines, each on a store of its own unless told which."""
    engines = []

    def make(name=None, **how):
        engines.append(Engine(tmp_path / (name or f"store{len(engines)}"), **{"pull": "missing", **how}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def built(new_engine, tmp_path):
    """An engine with an image of three layers on nothing, and its context."""
    context = tmp_path / "context"
    context.mkdir()
    for number in range(3):
        (context / f"file{number}").write_text(f"content {number}\n" * 1000)
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY file0 /\nCOPY file1 /etc/\nCOPY --chmod=700 file2 /etc/file1\n"
        'ENV A=b\nLABEL x=y\nCMD ["/file0"]\n'
    )
    engine = new_engine("builder")
    return engine, engine.build(context)


def read(engine, image, path):
    with engine.run(image, command=[]) as container:
        return container.read_text(path)


def test_an_image_goes_there_and_comes_back_the_same(docker_registry, built, new_engine):
    engine, image = built
    name = f"{docker_registry.host}/team/app:1"
    digest = engine.push(image, name)
    other = new_engine()
    pulled = other.image(name)
    assert pulled.digest == digest == image.digest
    assert pulled.id == engine.image(image.id).id
    assert pulled.tags == (name,)
    assert pulled.config == engine.image(image.id).config
    assert read(other, name, "/etc/file1") == "content 2\n" * 1000
    assert other.push(name, f"{docker_registry.host}/team/again:2") == digest
    assert docker_registry.asked("PUT /v2/team/again/blobs/uploads") == 1  # the config: layers are taken next door
    assert engine.repo_digests(image) == [f"{docker_registry.host}/team/app@{digest}"]
    assert other.repo_digests(name) == [f"{docker_registry.host}/team/{app}@{digest}" for app in ("app", "again")]


def test_a_pull_of_what_is_here_fetches_nothing(docker_registry, built, new_engine):
    engine, image = built
    name = f"{docker_registry.host}/app"
    engine.push(image, name)
    other, events = new_engine(), []
    first = other.pull(name)
    fetched = docker_registry.asked("GET /v2/app/blobs/")
    assert other.pull(name, progress=events.append) == first
    assert docker_registry.asked("GET /v2/app/blobs/") == fetched == 4
    said = [event.status for event in events]
    assert said[0] == "latest: Pulling from app"
    assert said[-1] == f"Status: Image is up to date for {name}:latest"
    assert said.count("Already exists") == 3


def test_progress_counts_bytes_to_the_end(docker_registry, built, new_engine):
    engine, image = built
    name = f"{docker_registry.host}/app"
    pushed, pulled = [], []
    engine.push(image, name, progress=pushed.append)
    new_engine().pull(name, progress=pulled.append)
    for events, status in ((pushed, "Pushing"), (pulled, "Downloading")):
        last = {event.layer: event for event in events if event.status == status}
        assert len(last) == 3
        assert all(event.done == event.total > 0 for event in last.values())
    assert pulled[-1].status == f"Status: Downloaded newer image for {name}:latest"
    assert [event.status for event in pushed].count("Pushed") == 3


def test_an_image_by_its_digest(docker_registry, built, new_engine):
    engine, image = built
    repository = f"{docker_registry.host}/app"
    digest = engine.push(image, f"{repository}:1")
    other = new_engine()
    assert other.image(f"{repository}@{digest}").digest == digest
    docker_registry.close()
    assert other.image(f"{repository}:whatever@{digest}").digest == digest
    with pytest.raises(ImageNotFound):
        other.image(f"{repository}:1")
    with pytest.raises(UsageError, match="push to a tag"):
        engine.push(image, f"{repository}@{digest}")


def test_when_a_registry_is_asked(docker_registry, built, new_engine, tmp_path):
    engine, image = built
    name = f"{docker_registry.host}/app"
    engine.push(image, name)
    never = new_engine("shared", pull="never")
    with pytest.raises(ImageNotFound, match="no image"):
        never.image(name)
    assert docker_registry.asked("GET /v2/app/manifests") == 0
    missing = new_engine("shared")
    first = missing.image(name)
    (tmp_path / "context/file0").write_text("newer")
    engine.push(engine.build(tmp_path / "context"), name)
    assert missing.image(name) == first
    assert missing.image(name, pull="always") != first
    with pytest.raises(UsageError, match="missing, always or never"):
        missing.image(name, pull="sometimes")


def test_from_pulls(docker_registry, built, new_engine, tmp_path):
    engine, image = built
    name = f"{docker_registry.host}/base"
    engine.push(image, name)
    (tmp_path / "on-it").mkdir()
    (tmp_path / "on-it/Dockerfile").write_text(f"FROM {name}\nCOPY --from={name} /file0 /copied\n")
    other = new_engine()
    events = []
    assert read(other, other.build(tmp_path / "on-it", progress=events.append), "/copied").startswith("content 0")
    told = [event.text for event in events if event.name == f"[internal] load metadata for {name}"]
    assert "latest: Pulling from base\n" in told
    assert any(text.endswith(": Pull complete\n") for text in told)
    (tmp_path / "context/file0").write_text("newer")
    engine.push(engine.build(tmp_path / "context"), name)
    assert read(other, other.build(tmp_path / "on-it"), "/copied").startswith("content 0")
    assert read(other, other.build(tmp_path / "on-it", pull=True), "/copied") == "newer"


def test_hello_world_of_a_registry_where_one_is_named(docker_registry, built, new_engine):
    engine, _ = built
    other = new_engine(registry_mirrors={"docker.io": [docker_registry.host]})
    name = f"{docker_registry.host}/library/hello-world"
    engine.push("hello-world", name)
    assert other.image("hello-world").tags == ("hello-world",)
    assert docker_registry.asked("GET /v2/library/hello-world/manifests") == 0
    for reference in (name, "docker.io/hello-world"):
        pulled = other.image(reference)
        assert pulled.digest == engine.image("hello-world").digest
        with other.run(pulled) as container:
            assert container.wait(timeout=60) == 0
            assert "Hello from" in container.logs()
    assert docker_registry.asked("GET /v2/library/hello-world/manifests") == 2


def test_what_is_not_to_be_had_names_image_registry_and_call(docker_registry, new_engine):
    name = f"{docker_registry.host}/missing:1"
    engine = new_engine()
    call = f"GET http://{docker_registry.host}/v2/missing/manifests/1"
    with pytest.raises(ImageNotFound, match="404") as caught:
        engine.pull(name)
    assert call in str(caught.value)
    with pytest.raises(ImageNotFound, match=f"no image '{name}' in the store") as caught:
        engine.run(name)
    assert caught.value.reference == name
    assert call in str(caught.value)
    assert "build it with a tag" in caught.value.hint


def test_a_password(private_registry, built, new_engine, home):
    engine, image = built
    name = f"{private_registry.host}/app"
    with pytest.raises(RegistryError, match=f"push of {name}"):
        engine.push(image, name)
    write_config(home / ".docker", auths(**{private_registry.host: f"{USER}:{PASSWORD}"}))
    engine = new_engine("builder")
    digest = engine.push(image.id, name)
    assert new_engine().image(name).digest == digest


# -- many at once -----------------------------------------------------------------------------------------------------


def pull_in_process(store, name, barrier, answers):
    with Engine(store) as engine:
        barrier.wait()
        answers.put(engine.pull(name).digest)


def test_two_processes_download_each_blob_once(docker_registry, built, tmp_path, home):
    engine, image = built
    name = f"{docker_registry.host}/app"
    digest = engine.push(image, name)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=pull_in_process, args=(tmp_path / "shared", name, barrier, answers)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert {answers.get(timeout=120), answers.get(timeout=120)} == {digest}
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert docker_registry.asked("GET /v2/app/blobs/") == 4


# -- what a registry may have -----------------------------------------------------------------------------------------


@pytest.fixture
def parts(built):
    """The packed image's config, layers and manifest as bytes, with their digests."""
    engine, image = built
    packed = engine.image(image).packed()
    blobs = {
        blob.digest: engine._store.content.read(blob.digest)
        for blob in (packed.manifest.config, *packed.manifest.layers)
    }
    return packed, blobs


def words_of(platform):
    return {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}


def describe(data, media_type, **more):
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def serve(fake, parts, *, media_type=OCI_MANIFEST, config=None, change=None):
    """Put the image into the fake registry, in OCI's or Docker's words, with a change; returns the manifest."""
    packed, blobs = parts
    docker = media_type == DOCKER_MANIFEST
    config = config or blobs[packed.manifest.config.digest]
    layers = [blobs[layer.digest] for layer in packed.manifest.layers]
    for data in (config, *layers):
        fake.add_blob(data)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": describe(config, DOCKER_CONFIG if docker else OCI_CONFIG),
        "layers": [describe(layer, DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP) for layer in layers],
    }
    if change:
        change(manifest)
    data = json.dumps(manifest, indent=7).encode()
    fake.add_manifest("app", "1", data, media_type)
    return data


def test_dockers_media_types_and_somebody_elses_bytes(fake, parts, new_engine):
    data = serve(fake, parts, media_type=DOCKER_MANIFEST)
    engine = new_engine()
    assert engine.pull(f"{fake.host}/app:1").digest == digest_of(data)
    events = []
    assert engine.push(f"{fake.host}/app:1", f"{fake.host}/copy:1", progress=events.append) == digest_of(data)
    assert not [event.status for event in events if "index" in event.status]
    assert fake.manifests["copy", "1"] == (data, DOCKER_MANIFEST)


def test_a_base_for_another_platform_leaves_the_name_to_this_hosts(fake, new_engine, tmp_path):
    here = Platform.here()
    other = Platform("linux", "arm64" if here.architecture == "amd64" else "amd64")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n")
    entries = []
    for platform in (here, other):
        name, maker = f"{fake.host}/app:{platform.architecture}", new_engine()
        maker.build(tmp_path, tag=name, platform=str(platform))
        maker.push(name)
        data, media_type = fake.manifests["app", platform.architecture]
        entries.append(describe(data, media_type, platform=words_of(platform)))
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    fake.add_manifest("app", "1", index, OCI_INDEX)

    engine, name = new_engine(), f"{fake.host}/app:1"
    pulled = engine.pull(name)
    (tmp_path / "Dockerfile").write_text(f"FROM --platform={other} {name}\nLABEL own=1\n")
    built = engine.build(tmp_path)
    assert built.config.platform == other
    assert built.config.config.labels == {"arch": other.architecture, "own": "1"}
    assert engine.image(name) == pulled

    asked = len(fake.requests)
    assert engine.build(tmp_path) == built
    assert len(fake.requests) == asked, "it is here now"

    assert engine.pull(name, platform=str(other)).config.platform == other
    assert engine.image(name).config.platform == other, "who asks for it by name has it so, as in Docker"


@pytest.mark.parametrize("index_type", [OCI_INDEX, DOCKER_INDEX])
def test_the_platform_of_this_host_is_chosen(fake, parts, new_engine, index_type):
    image = serve(fake, parts)
    others = [("arm", "v7"), ("riscv64", ""), ("s390x", "")]
    manifests = [
        describe(b"{}", OCI_MANIFEST, platform={"os": "linux", "architecture": name, "variant": variant})
        for name, variant in others
    ]
    attestation = describe(b"[]", OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"})
    here = describe(image, OCI_MANIFEST, platform=words_of(Platform.host(os.uname().machine)))
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": index_type, "manifests": [attestation, *manifests, here]}
    ).encode()
    fake.add_manifest("app", "many", index, index_type)
    engine, events = new_engine(), []
    pulled = engine.pull(f"{fake.host}/app:many", progress=events.append)
    assert pulled.digest == digest_of(image)
    assert f"Digest: {digest_of(index)}" in [event.status for event in events]
    assert engine.image(f"{fake.host}/app@{digest_of(index)}").digest == digest_of(image)

    events.clear()
    assert engine.push(pulled, f"{fake.host}/app:one", progress=events.append) == digest_of(image)
    only = f"Only the image for {pulled.config.platform} is pushed"
    said = f"{only}, not the index {fake.host}/app@{digest_of(index)} that it came from"
    assert said in [event.status for event in events]

    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": [attestation, *manifests]}).encode()
    fake.add_manifest("app", "others", index, index_type)
    with pytest.raises(ImageNotFound, match="it is for linux/arm/v7, linux/riscv64, linux/s390x"):
        engine.pull(f"{fake.host}/app:others")


WRONG = {
    "a layer of another size": (lambda m: m["layers"][0].update(size=3), "sends more than the 3 bytes"),
    "a config that is none": (lambda m: m["config"].update(mediaType="text/plain"), "it is no image but an artifact"),
    "a foreign layer": (
        lambda m: m["layers"][0].update(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        "a layer that its registry does not give out",
    ),
    "a layer that is none": (lambda m: m["layers"][0].update(mediaType="text/plain"), "is no layer of an image"),
    "a layer too few": (lambda m: m["layers"].pop(), "the manifest has 2 layers and the config 3"),
    "layers in another order": (lambda m: m["layers"].reverse(), "its image says"),
    "schema 1": (lambda m: m.update(schemaVersion=1), "version 1 is not supported"),
    "a digest that is none": (lambda m: m["config"].update(digest="sha256:1"), "64 lower-case"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_image_that_is_wrong_is_named(fake, parts, new_engine, wrong):
    change, said = WRONG[wrong]
    serve(fake, parts, change=change)
    with pytest.raises(RegistryError, match=said) as caught:
        new_engine().pull(f"{fake.host}/app:1")
    assert f"pull of {fake.host}/app:1: registry {fake.host}: " in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("config", [b"{", b"[]", b"{}", b'{"rootfs": {"type": "layers", "diff_ids": 1}}'])
def test_a_config_that_is_none(fake, parts, new_engine, config):
    serve(fake, parts, config=config)
    with pytest.raises(RegistryError, match="image config"):
        new_engine().pull(f"{fake.host}/app:1")


def test_a_layer_that_fails_stops_the_others_and_the_next_pull_goes_on(fake, parts, new_engine):
    packed, _ = parts
    serve(fake, parts)
    bad, good = (packed.manifest.layers[number].digest for number in (0, 2))
    good_is_here = threading.Event()

    def note(event):
        if event.layer == good.short and event.status == "Pull complete":
            good_is_here.set()

    call = f"GET /v2/app/blobs/{bad}"
    fake.always[call] = lambda handler: good_is_here.wait(60) and handler.error(403, "DENIED", "no")
    engine = new_engine()
    with pytest.raises(RegistryError, match="DENIED: no"):
        engine.pull(f"{fake.host}/app:1", progress=note)
    assert [thread.name for thread in threading.enumerate() if "capsule-registry" in thread.name] == []
    with pytest.raises(ImageNotFound):
        engine.image(f"{fake.host}/app:1", pull="never")
    del fake.always[call]
    engine.pull(f"{fake.host}/app:1")
    assert len(fake.asked("GET", f"/v2/app/blobs/{good}")) == 1


def test_a_wrong_setting_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="registry_mirrors: a mirror is"):
        Engine(tmp_path, registry_mirrors={"docker.io": ["ftp://x"]})
    monkeypatch.setenv("CAPSULE_INSECURE_REGISTRIES", "me:word@host/x")
    with pytest.raises(CapsuleError, match="CAPSULE_INSECURE_REGISTRIES: each is a registry") as caught:
        Engine(tmp_path)
    assert "word" not in str(caught.value)
