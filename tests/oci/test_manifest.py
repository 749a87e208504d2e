import base64
import json
from dataclasses import replace

import pytest

from pytest_capsule.errors import ImageNotFound, MalformedImage
from pytest_capsule.oci import descriptor as types
from pytest_capsule.oci.descriptor import Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.manifest import Index, Manifest, find_manifest, parse_manifest
from pytest_capsule.oci.platform import Platform

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def blob(content, media_type=types.OCI_LAYER_GZIP, **changes):
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content), **changes}


def manifest_with(**changes):
    values = {
        "schemaVersion": 2,
        "mediaType": types.OCI_MANIFEST,
        "config": blob(b"config", types.OCI_CONFIG),
        "layers": [blob(b"one"), blob(b"second")],
        **changes,
    }
    return json.dumps({key: value for key, value in values.items() if value is not None}).encode()


def index_of(*entries, **changes):
    values = {"schemaVersion": 2, "mediaType": types.OCI_INDEX, "manifests": list(entries), **changes}
    return json.dumps({key: value for key, value in values.items() if value is not None}).encode()


def entry(name, os="linux", architecture="amd64", **more):
    platform = {"os": os, "architecture": architecture, **more}
    return blob(name, types.OCI_MANIFEST, platform=platform)


def test_a_manifest_lists_config_and_layers():
    manifest = Manifest.from_json(manifest_with())
    assert manifest.config == Descriptor.of(b"config", types.OCI_CONFIG)
    assert [layer.size for layer in manifest.layers] == [3, 6]
    assert manifest.layers[0].digest == Digest.of(b"one")


def test_a_manifest_comes_back_in_the_order_of_the_specification():
    manifest = Manifest.from_json(manifest_with(annotations={"b": "2", "a": "1"}, odd=[1]))
    data = manifest.to_json()
    assert Manifest.from_json(data) == manifest
    assert list(json.loads(data)) == ["schemaVersion", "mediaType", "config", "layers", "annotations", "odd"]
    assert list(json.loads(data)["annotations"]) == ["a", "b"]
    assert data.startswith(b'{\n  "schemaVersion": 2,\n  "mediaType": ')


def test_an_artifact_and_its_subject_are_kept():
    subject = blob(b"image", types.OCI_MANIFEST)
    manifest = Manifest.from_json(manifest_with(artifactType="application/vnd.example+json", subject=subject))
    assert manifest.subject == Descriptor.of(b"image", types.OCI_MANIFEST)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_docker_schema_2_is_read_and_written_as_such():
    data = manifest_with(
        mediaType=types.DOCKER_MANIFEST,
        config=blob(b"config", types.DOCKER_CONFIG),
        layers=[blob(b"one", types.DOCKER_LAYER_GZIP)],
    )
    manifest = parse_manifest(data, types.DOCKER_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].compression == "gzip"
    assert json.loads(manifest.to_json()) == json.loads(data)


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        (types.OCI_LAYER, "none"),
        (types.OCI_LAYER_GZIP, "gzip"),
        (types.OCI_LAYER_ZSTD, "zstd"),
        (types.DOCKER_LAYER, "none"),
        (types.DOCKER_LAYER_GZIP, "gzip"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip"),
    ],
)
def test_how_a_layer_is_packed(media_type, compression):
    assert Descriptor.of(b"layer", media_type).compression == compression


def test_a_blob_that_is_no_layer():
    with pytest.raises(MalformedImage, match="no layer of an image"):
        _ = Descriptor.of(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip").compression


def test_a_descriptor_may_carry_its_blob():
    data = manifest_with(config=blob(b"config", types.OCI_CONFIG, data=base64.b64encode(b"config").decode()))
    manifest = Manifest.from_json(data)
    assert manifest.config.data == b"config"
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"schemaVersion": None}, "schemaVersion", "must be 2, is 0"),
        ({"schemaVersion": "2"}, "schemaVersion", "expected an integer"),
        ({"config": None}, "config", "missing"),
        ({"layers": {}}, "layers", "expected an array of objects"),
        ({"layers": [blob(b"x"), blob(b"x", size=-1)]}, "layers[1].size", "must not be negative"),
        ({"layers": [blob(b"x", size=None)]}, "layers[0].size", "missing"),
        ({"layers": [blob(b"x", size=1.5)]}, "layers[0].size", "expected an integer"),
        ({"layers": [blob(b"x", digest="sha256:1")]}, "layers[0].digest", "takes 64"),
        ({"layers": [blob(b"x", digest=None)]}, "layers[0].digest", "algorithm:hex"),
        ({"layers": [blob(b"x", media_type="nonsense")]}, "layers[0].mediaType", "no media type"),
        ({"layers": [blob(b"x", urls="u")]}, "layers[0].urls", "expected an array of strings"),
        ({"config": blob(b"c", data="!")}, "config.data", "base64"),
        ({"config": blob(b"c", data="eHg=")}, "config.data", "digest"),
        ({"annotations": {"a": 1}}, 'annotations["a"]', "expected a string"),
        ({"mediaType": "text/plain"}, "mediaType", "not what was expected"),
    ],
)
def test_an_error_in_a_manifest_names_the_field(changes, field, reason):
    with pytest.raises(MalformedImage) as caught:
        parse_manifest(manifest_with(**changes))
    assert (caught.value.document, caught.value.field) == ("manifest", field)
    assert reason in caught.value.reason


def test_docker_schema_1_is_refused_with_the_way_out():
    data = json.dumps({"schemaVersion": 1, "name": "app", "fsLayers": []}).encode()
    with pytest.raises(MalformedImage, match="version 1 is not supported") as caught:
        parse_manifest(data, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    assert "anew" in caught.value.hint


def test_the_media_type_may_come_from_the_registry_alone():
    assert parse_manifest(manifest_with(mediaType=None), types.OCI_MANIFEST).media_type == types.OCI_MANIFEST
    assert isinstance(parse_manifest(index_of(mediaType=None), types.OCI_INDEX), Index)
    assert isinstance(parse_manifest(index_of(mediaType=None)), Index)
    with pytest.raises(MalformedImage, match="was served as"):
        parse_manifest(manifest_with(), types.DOCKER_MANIFEST)


def test_a_document_that_is_two_things_at_once_is_refused():
    with pytest.raises(MalformedImage, match="those of an index"):
        parse_manifest(manifest_with(manifests=[]))


def test_an_index_lists_platforms():
    data = index_of(entry(b"a"), entry(b"b", architecture="arm64", variant="v8"))
    index = parse_manifest(data)
    assert [str(item.platform) for item in index.manifests] == ["linux/amd64", "linux/arm64/v8"]
    assert json.loads(index.to_json()) == json.loads(data)


def test_a_windows_platform_is_kept_whole():
    data = index_of(entry(b"w", os="windows", **{"os.version": "10.0.17763.1", "os.features": ["win32k"]}))
    index = Index.from_json(data)
    assert index.manifests[0].platform.os_features == ("win32k",)
    assert json.loads(index.to_json()) == json.loads(data)


def test_the_best_platform_is_chosen():
    index = Index.from_json(
        index_of(
            entry(b"v5", architecture="arm", variant="v5"),
            entry(b"v7", architecture="arm", variant="v7"),
            entry(b"386", architecture="386"),
            entry(b"arm64", architecture="arm64", variant="v8"),
            entry(b"amd64"),
            entry(b"amd64 again"),
        )
    )
    chosen = {
        "linux/amd64": b"amd64",
        "linux/arm64": b"arm64",
        "linux/arm/v7": b"v7",
        "linux/arm/v6": b"v5",
        "linux/386": b"386",
    }
    found = {name: index.choose(Platform.parse(name)).digest for name in chosen}
    assert found == {name: Digest.of(data) for name, data in chosen.items()}


def test_an_entry_without_a_platform_is_the_last_resort():
    plain = blob(b"plain", types.OCI_MANIFEST)
    index = Index.from_json(index_of(plain, entry(b"amd64")))
    assert index.choose(AMD64).digest == Digest.of(b"amd64")
    assert index.choose(ARM64).digest == Digest.of(b"plain")


def test_a_platform_that_is_not_there():
    attestation = entry(b"attestation", os="unknown", architecture="unknown")
    index = Index.from_json(index_of(entry(b"a"), entry(b"s", architecture="s390x"), attestation))
    with pytest.raises(ImageNotFound) as caught:
        index.choose(ARM64, reference="app:1")
    assert caught.value.message == "app:1 has nothing for linux/arm64; it is for linux/amd64, linux/s390x"
    assert caught.value.reference == "app:1"


def test_descriptors_are_values():
    assert len({Descriptor.of(b"a", types.OCI_LAYER), Descriptor.of(b"a", types.OCI_LAYER)}) == 1


class Documents:
    """Documents by their digests; ``read`` gives them."""

    def __init__(self):
        self._data = {}

    def add(self, data, media_type, platform=None):
        descriptor = Descriptor.of(data, media_type)
        self._data[descriptor.digest] = data
        return replace(descriptor, platform=platform)

    def read(self, descriptor):
        return parse_manifest(self._data[descriptor.digest], descriptor.media_type)


def test_the_manifest_is_found_through_indexes_in_indexes_past_attestations():
    documents = Documents()
    ours = documents.add(manifest_with(annotations={"for": "amd64"}), types.OCI_MANIFEST, AMD64)
    other = documents.add(manifest_with(annotations={"for": "arm64"}), types.OCI_MANIFEST, ARM64)
    attestation = replace(other, platform=Platform("unknown", "unknown"))
    inner = documents.add(Index((attestation, other, ours)).to_json(), types.OCI_INDEX)
    outer = documents.add(Index((inner,)).to_json(), types.OCI_INDEX)
    assert find_manifest(outer, AMD64, documents.read)[1].annotations == {"for": "amd64"}
    assert find_manifest(outer, ARM64, documents.read)[0] == other
    assert find_manifest(ours, ARM64, documents.read)[0] == ours
    with pytest.raises(ImageNotFound, match="app has nothing for linux/ppc64le"):
        find_manifest(outer, Platform("linux", "ppc64le"), documents.read, reference="app")


def test_a_manifest_whose_type_only_it_itself_tells():
    documents = Documents()
    found, _ = find_manifest(documents.add(manifest_with(mediaType=types.DOCKER_MANIFEST), ""), AMD64, documents.read)
    assert found.media_type == types.DOCKER_MANIFEST


def test_indexes_in_indexes_have_an_end():
    documents = Documents()
    found = documents.add(manifest_with(), types.OCI_MANIFEST)
    for _ in range(7):
        found = documents.add(Index((found,)).to_json(), types.OCI_INDEX)
    assert find_manifest(found, AMD64, documents.read)[1].layers
    with pytest.raises(MalformedImage, match="more than 8 indexes within each other"):
        find_manifest(documents.add(Index((found,)).to_json(), types.OCI_INDEX), AMD64, documents.read)
