"""A build cache that machines share: each engine here has a store of its own, as each CI machine has."""

import json

import pytest

from pytest_capsule import Engine
from pytest_capsule.errors import RegistryError, UsageError
from pytest_capsule.oci.descriptor import OCI_MANIFEST
from pytest_capsule.oci.manifest import Manifest
from pytest_capsule.shared_cache import ARTIFACT

pytestmark = pytest.mark.usefixtures("steady_host")

DOCKERFILE = """\
FROM capsule/host AS first
RUN mkdir /made && echo first > /made/one
RUN true
FROM capsule/host
COPY file /srv/
RUN tr a-z A-Z < /srv/file > /srv/large
COPY --from=first /made /made
ENV A=b
"""


class Machine:
    """An engine on a store of its own; ``build`` notes which steps ran and which came from a cache."""

    def __init__(self, folder, context, **how):
        self.context = context
        self.engine = Engine(folder, **how)

    def build(self, **how):
        self.events = []
        return self.engine.build(self.context, progress=self.events.append, **how)

    def steps(self, kind):
        return [event.name for event in self.events if event.kind == kind and event.step]

    @property
    def warnings(self):
        return [event.text for event in self.events if event.kind == "warning"]


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


@pytest.fixture
def machine(tmp_path, context, home):
    """Makes a machine that has never built anything."""
    machines = []

    def new(**how):
        machines.append(Machine(tmp_path / f"machine{len(machines)}", context, **how))
        return machines[-1]

    yield new
    for one in machines:
        one.engine.close()


@pytest.fixture(params=["registry", "local"])
def cache(request, tmp_path):
    """``cache_from`` and ``cache_to`` of one place."""
    if request.param == "local":
        return f"type=local,src={tmp_path}/cache", f"type=local,dest={tmp_path}/cache"
    host = request.getfixturevalue("docker_registry").host
    return f"type=registry,ref={host}/cache:app", f"type=registry,ref={host}/cache:app"


def test_a_cold_machine_runs_nothing(machine, cache):
    source, target = cache
    first, second = machine(), machine()
    image = first.build(cache_to=f"{target},mode=max")
    assert len(first.steps("done")) == 5
    assert first.warnings == []

    again = second.build(cache_from=[source])
    assert second.steps("start") == []
    assert len(second.steps("cached")) >= 5
    assert second.warnings == []
    assert again.config == image.config
    with second.engine.run(again, command=[]) as container:
        assert container.read_text("/srv/large") == "CONTENT\n"
        assert container.read_text("/made/one") == "first\n"
    assert again.diff_ids[1:] == image.diff_ids[1:]

    third = machine()
    third.build(cache_from=source, no_cache=True)
    assert len(third.steps("done")) == 5


def test_only_what_has_changed_runs(machine, cache, context):
    source, target = cache
    machine().build(cache_to=f"{target},mode=max")
    (context / "file").write_text("other\n")
    second = machine()
    second.build(cache_from=source, cache_to=f"{target},mode=max")
    assert [name.partition("] ")[2].split()[0] for name in second.steps("done")] == ["COPY", "RUN", "COPY"]
    third = machine()
    third.build(cache_from=source)
    assert third.steps("start") == []


def test_min_has_the_steps_of_the_image_alone(machine, cache):
    source, target = cache
    machine().build(cache_to=target)
    second = machine()
    second.build(cache_from=source)
    assert [name.split("] ")[1].split()[0] for name in second.steps("done")] == ["RUN", "RUN"]
    assert all("first" in name for name in second.steps("done"))


def test_what_was_cached_here_is_shared_too(machine, cache):
    source, target = cache
    first, second = machine(), machine()
    first.build()
    first.build(cache_to=f"{target},mode=max")
    assert first.steps("start") == []
    second.build(cache_from=source)
    assert second.steps("start") == []


@pytest.mark.parametrize("place", ["type=registry,ref=127.0.0.1:1/cache", "type=local,src=/nowhere/at/all"])
def test_a_cache_that_is_not_there_is_a_warning(machine, place):
    first = machine()
    first.build(cache_from=place)
    assert len(first.steps("done")) == 5
    assert len(first.warnings) == 1
    assert first.warnings[0].startswith(f"cache_from={place}: ")


def test_a_cache_that_is_none_is_a_warning(machine, docker_registry):
    first = machine()
    image = f"{docker_registry.host}/image"
    first.engine.push("hello-world", image)
    first.build(cache_from=[image, f"{docker_registry.host}/missing"])
    assert len(first.steps("done")) == 5
    assert "it is no cache" in first.warnings[0]
    assert "404" in first.warnings[1]


def test_a_damaged_layer_is_a_warning_and_its_step_runs(machine, tmp_path):
    machine().build(cache_to=f"type=local,dest={tmp_path}/cache,mode=max")
    blobs = tmp_path / "cache/blobs/sha256"
    index = json.loads((tmp_path / "cache/index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_bytes())
    (blobs / manifest["layers"][0]["digest"].partition(":")[2]).write_bytes(b"damaged")
    second = machine()
    image = second.build(cache_from=f"type=local,src={tmp_path}/cache")
    assert len(second.steps("done")) == 1
    assert "a layer of the cache cannot be used" in second.warnings[0]
    with second.engine.run(image, command=[]) as container:
        assert container.read_text("/srv/large") == "CONTENT\n"


def test_it_is_an_ordinary_artifact(machine, docker_registry, connect):
    reference = f"{docker_registry.host}/cache:app"
    machine().build(cache_to=f"type=registry,ref={reference},mode=max")
    document = connect(reference).manifest("app")
    manifest = Manifest.from_json(document.data, document.media_type)
    assert manifest.artifact_type == ARTIFACT
    assert {layer.compression for layer in manifest.layers} == {"gzip"}
    for blob in (manifest.config, *manifest.layers):
        assert b"".join(connect(reference).blob(blob))


def test_a_cache_that_cannot_be_written_fails_the_build_unless_told(machine):
    first = machine()
    with pytest.raises(RegistryError, match="push of 127"):
        first.build(cache_to="type=registry,ref=127.0.0.1:1/cache")
    first.build(cache_to="type=registry,ref=127.0.0.1:1/cache,ignore-error=true")
    assert first.warnings[0].startswith("cache_to=type=registry,ref=127.0.0.1:1/cache")


def test_an_image_of_a_registry_is_the_same_base_everywhere(machine, docker_registry, context, cache):
    source, target = cache
    base = f"{docker_registry.host}/base"
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY file /copied\n")
    first = machine(pull="missing")
    first.engine.push("hello-world", base)
    first.build(cache_to=target)
    assert len(first.steps("done")) == 1
    second = machine(pull="missing")
    second.build(cache_from=source)
    assert second.steps("start") == []


def test_a_local_cache_keeps_others_under_their_tags(machine, tmp_path, context):
    place = f"{tmp_path}/cache"
    machine().build(cache_to=f"type=local,dest={place},tag=one,mode=max")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    machine().build(cache_to=f"type=local,dest={place},tag=two")
    third = machine()
    third.build(cache_from=f"type=local,src={place},tag=two")
    assert third.steps("start") == []
    (context / "Dockerfile").write_text(DOCKERFILE)
    third.build(cache_from=f"type=local,src={place},tag=one")
    assert third.steps("start") == []


def test_what_buildkit_is_told_for_registries_with_wishes(machine, docker_registry, connect):
    reference = f"{docker_registry.host}/cache:app"
    wishes = "mode=max,image-manifest=true,oci-mediatypes=true,compression=gzip,ignore-error=false"
    machine().build(cache_to=f"type=registry,ref={reference},{wishes}")
    assert connect(reference).manifest("app").media_type == OCI_MANIFEST
    second = machine()
    second.build(cache_from=f"Type=registry, ref={reference}")
    assert second.steps("start") == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"cache_from": "type=gha"}, "no cache of type 'gha'"),
        ({"cache_from": "type=registry"}, "ref= is missing"),
        ({"cache_to": "type=local,src=x"}, "dest= is missing"),
        ({"cache_to": "type=registry,ref=x,mode=most"}, "mode is min or max"),
        ({"cache_to": "type=registry,ref=x,ignore-error=maybe"}, "ignore-error is true or false"),
        ({"cache_to": "type=registry,ref=x,max"}, "'max' is no KEY=VALUE"),
        ({"cache_to": "type=registry,ref=x,compression=zstd"}, "has compression=gzip, and cannot have 'zstd'"),
        ({"cache_to": "type=registry,ref=x,oci-mediatypes=false"}, "has oci-mediatypes=true, and cannot have 'false'"),
        ({"cache_from": "type=registry,ref=x,colour=red"}, "colour= is not known"),
        ({"cache_from": "type=registry,ref=x,compression=gzip"}, "compression= is not known"),
    ],
)
def test_a_wrong_place_is_named(machine, how, said):
    with pytest.raises(UsageError, match=said):
        machine().build(**how)
