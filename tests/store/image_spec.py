"""The rules of the OCI image-spec, written down from its text and not from what is tried: a layout that follows them.

Source: image-layout.md, image-index.md, manifest.md, descriptor.md, config.md, layer.md and the schemas beside them.
"""

import datetime
import gzip
import hashlib
import io
import json
import re
import tarfile

_WORD = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
MEDIA_TYPE = re.compile(f"{_WORD}/{_WORD}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": bytes,
    "application/vnd.oci.image.layer.v1.tar+gzip": gzip.decompress,
}
ARCHITECTURES = {"amd64", "arm64", "arm", "386", "s390x", "ppc64le", "riscv64", "loong64"}


class ImageLayout:
    """A layout that is checked while it is read; ``images`` are its manifests with their configs, ``names`` those
    of all members of its layers."""

    def __init__(self, folder):
        self._folder = folder
        assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        for path in folder.glob("blobs/*/*"):
            assert DIGEST.fullmatch(f"{path.parent.name}:{path.name}")
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        self._named = set()
        self.names = set()
        self.images = [self._manifest(entry) for entry in self._index(json.loads((folder / "index.json").read_bytes()))]
        there = {f"{path.parent.name}:{path.name}" for path in folder.glob("blobs/*/*")}
        assert there == self._named, "nothing is there that nothing names"

    def _blob(self, descriptor):
        assert MEDIA_TYPE.fullmatch(descriptor["mediaType"])
        assert DIGEST.fullmatch(descriptor["digest"])
        assert type(descriptor["size"]) is int
        _check_annotations(descriptor)
        self._named.add(descriptor["digest"])
        data = self._folder.joinpath("blobs", *descriptor["digest"].split(":")).read_bytes()
        assert len(data) == descriptor["size"]
        return data

    def _index(self, index):
        _check_head(index, INDEX)
        assert isinstance(index["manifests"], list)
        for entry in index["manifests"]:
            if platform := entry.get("platform"):
                assert isinstance(platform["os"], str)
                assert isinstance(platform["architecture"], str)
        return index["manifests"]

    def _manifest(self, descriptor):
        assert descriptor["mediaType"] == MANIFEST
        manifest = json.loads(self._blob(descriptor))
        _check_head(manifest, MANIFEST)
        assert manifest["config"]["mediaType"] == CONFIG
        config = json.loads(self._blob(manifest["config"]))
        _check_config(config)
        assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) > 0
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            tar = LAYERS[layer["mediaType"]](self._blob(layer))
            assert f"sha256:{hashlib.sha256(tar).hexdigest()}" == diff_id
            self.names |= _check_layer(tar)
        return manifest, config


def _check_head(document, media_type):
    assert document["schemaVersion"] == 2
    assert document.get("mediaType", media_type) == media_type
    _check_annotations(document)


def _check_annotations(document):
    assert all(isinstance(value, str) for value in document.get("annotations", {}).values())


def _check_config(config):
    assert config["architecture"] in ARCHITECTURES
    assert config["os"] == "linux"
    assert config["rootfs"]["type"] == "layers"
    assert all(DIGEST.fullmatch(diff_id) for diff_id in config["rootfs"]["diff_ids"])
    _check_time(config)
    for entry in config["history"]:
        _check_time(entry)
        assert entry.keys() <= {"created", "author", "created_by", "comment", "empty_layer"}
        assert entry.get("empty_layer", True) is True, "written only where it says something"
    assert sum("empty_layer" not in entry for entry in config["history"]) == len(config["rootfs"]["diff_ids"])
    run = config.get("config", {})
    for key in ("Entrypoint", "Cmd"):
        assert all(isinstance(word, str) for word in run.get(key) or [])
    assert all(re.match("[^=]+=", pair) for pair in run.get("Env") or [])
    assert all(re.fullmatch("[0-9]+(/(tcp|udp|sctp))?", port) for port in run.get("ExposedPorts", {}))
    assert all(value == {} for key in ("ExposedPorts", "Volumes") for value in run.get(key, {}).values())
    assert all(isinstance(run.get(key, ""), str) for key in ("User", "WorkingDir", "StopSignal"))
    assert all(isinstance(value, str) for value in run.get("Labels", {}).values())


def _check_time(document):
    if "created" in document:
        text = re.sub(r"\.\d+", "", document["created"]).replace("Z", "+00:00")
        assert datetime.datetime.fromisoformat(text).tzinfo is not None


def _check_layer(data):
    names = set()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            assert not member.name.startswith("/")
            assert ".." not in member.name.split("/")
            assert member.name not in names, "each path is there once"
            if member.islnk():
                assert member.linkname in names, "what it is linked to is in the same layer, before it"
            if member.name.rpartition("/")[2].startswith(".wh."):
                assert member.isreg()
                assert member.size == 0
            names.add(member.name)
    return names
