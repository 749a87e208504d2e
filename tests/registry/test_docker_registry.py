"""The client against Debian's docker-registry: plain, with a password, with TLS."""

import io
import socket

import pytest
from registry_peers import PASSWORD, USER, auths, write_config

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.descriptor import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from pytest_capsule.oci.manifest import Manifest
from pytest_capsule.registry.upload import Source


def source_of(data, media_type=OCI_LAYER_GZIP):
    return Source(Descriptor.of(data, media_type), lambda offset, size: io.BytesIO(data[offset : offset + size]))


def push(repository, *blobs, tag="1"):
    sources = [source_of(b"{}", OCI_CONFIG), *map(source_of, blobs)]
    outcomes = [repository.push_blob(source) for source in sources]
    manifest = Manifest(sources[0].descriptor, tuple(source.descriptor for source in sources[1:])).to_json()
    return outcomes, repository.push_manifest(manifest, OCI_MANIFEST, tag), manifest


LAYERS = (b"first layer", b"second layer" * 200_000, b"")


def test_what_is_pushed_is_pulled(docker_registry, connect):
    repository = connect(f"{docker_registry.host}/team/app:1")
    outcomes, digest, manifest = push(repository, *LAYERS)
    assert outcomes == ["pushed"] * 4
    again, same, _ = push(repository, *LAYERS)
    assert again == ["exists"] * 4
    assert same == digest

    for version in ("1", digest):
        found = repository.manifest(version)
        assert (found.data, found.digest, found.media_type) == (manifest, digest, OCI_MANIFEST)
    assert repository.digest("1") == digest
    assert [b"".join(repository.blob(Descriptor.of(data, OCI_LAYER_GZIP))) for data in LAYERS] == list(LAYERS)


def test_a_blob_of_a_neighbour_is_mounted(docker_registry, connect):
    push(connect(f"{docker_registry.host}/first:1"), *LAYERS)
    other = connect(f"{docker_registry.host}/second:1")
    assert other.push_blob(source_of(LAYERS[1]), mount_from=["missing", "first"]) == "mounted from first"
    assert b"".join(other.blob(Descriptor.of(LAYERS[1], OCI_LAYER_GZIP))) == LAYERS[1]


def test_what_is_not_there(docker_registry, connect):
    repository = connect(f"{docker_registry.host}/app:1")
    with pytest.raises(RegistryError, match=f"pull of {docker_registry.host}/app:1.*404.*MANIFEST_UNKNOWN") as caught:
        repository.manifest("1")
    assert caught.value.status == 404
    assert caught.value.registry == docker_registry.host
    assert caught.value.call == f"GET http://{docker_registry.host}/v2/app/manifests/1"
    assert "name and tag" in caught.value.hint


def test_a_name_and_a_password(private_registry, connect, home):
    reference = f"{private_registry.host}/app:1"
    with pytest.raises(RegistryError, match="there are none for it") as caught:
        push(connect(reference), b"data")
    assert caught.value.status == 401
    assert f"docker login {private_registry.host}" in caught.value.hint

    write_config(home / ".docker", auths(**{private_registry.host: f"{USER}:wrong-{PASSWORD}"}))
    with pytest.raises(RegistryError, match=r"it refuses the credentials of .*config\.json") as caught:
        push(connect(reference), b"data")
    assert PASSWORD not in str(caught.value)

    write_config(home / ".docker", auths(**{private_registry.host: f"{USER}:{PASSWORD}"}))
    assert push(connect(reference), b"data")[0] == ["pushed", "pushed"]
    assert connect(reference).manifest("1").media_type == OCI_MANIFEST


@pytest.fixture
def named(monkeypatch):
    """``registry.test`` is this machine: a name that nobody takes for a loopback address."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1" if host == "registry.test" else host, *rest)
    )


def test_a_certificate_of_a_private_authority(tls_registry, authority, connect, home, named):
    host = f"registry.test:{tls_registry.port}"
    with pytest.raises(RegistryError, match="its certificate is not trusted") as caught:
        connect(f"{host}/app:1").manifest("1")
    assert f"/etc/docker/certs.d/{host}/ca.crt" in caught.value.hint

    assert push(connect(f"{host}/app:1", SSL_CERT_FILE=f"{authority}/ca.crt"), b"data")[0] == ["pushed"] * 2
    folder = home / ".config/docker/certs.d" / host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes((authority / "ca.crt").read_bytes())
    assert connect(f"{host}/app:1").manifest("1").media_type == OCI_MANIFEST
    assert connect(f"{host}/app:1", insecure=[host]).manifest("1").media_type == OCI_MANIFEST


def test_a_certificate_for_another_name(tls_registry, authority, connect, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest))
    with pytest.raises(RegistryError, match=r"not trusted: .*mismatch"):
        connect(f"other.test:{tls_registry.port}/app:1", SSL_CERT_FILE=f"{authority}/ca.crt").manifest("1")


def test_loopback_needs_neither_tls_nor_a_known_certificate(tls_registry, docker_registry, connect):
    assert push(connect(f"{tls_registry.host}/app:1"), b"data")[0] == ["pushed"] * 2
    assert push(connect(f"localhost:{docker_registry.port}/app:1"), b"data")[0] == ["pushed"] * 2


def test_plain_http_only_where_it_is_said(docker_registry, connect, named):
    host = f"registry.test:{docker_registry.port}"
    with pytest.raises(RegistryError, match="TLS failed") as caught:
        connect(f"{host}/app:1").manifest("1")
    assert f"add {host} to capsule_insecure_registries" in caught.value.hint
    assert push(connect(f"{host}/app:1", insecure=[host]), b"data")[0] == ["pushed"] * 2
