"""Uploads that break, are refused, or have to come in pieces."""

import io

import pytest
from fake_registry import FakeRegistry, digest_of

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from pytest_capsule.registry import upload
from pytest_capsule.registry.upload import Source

BLOB = bytes(range(256)) * 10_000
SOURCE = Source(Descriptor.of(BLOB, OCI_LAYER_GZIP), lambda offset, size: io.BytesIO(BLOB[offset : offset + size]))
FIRST, SECOND = "/v2/app/blobs/uploads/s0", "/v2/app/blobs/uploads/s1"


@pytest.fixture
def repository(fake, connect):
    return connect(f"{fake.host}/app:1", purpose="push")


def takes_only(size, keep=True):
    """Take the first ``size`` bytes, then hang up; what came may be kept or lost."""

    def answer(handler):
        taken = handler.rfile.read(size)
        session = handler.path.partition("?")[0].rpartition("/")[2]
        if keep:
            handler.server.registry.uploads[session] += taken
        return handler.hang_up()

    return answer


def test_one_piece_where_that_does(fake, repository):
    assert repository.push_blob(SOURCE) == "pushed"
    assert fake.blobs == {digest_of(BLOB): BLOB}
    assert [method for method, _, _ in fake.requests] == ["GET", "HEAD", "POST", "PUT"]


def test_an_upload_goes_on_where_it_broke_off(fake, repository):
    fake.answers[f"PUT {FIRST}"] = [takes_only(1_000_000)]
    assert repository.push_blob(SOURCE) == "pushed"
    assert fake.blobs == {digest_of(BLOB): BLOB}
    assert fake.asked("PATCH", FIRST)[0]["Content-Range"] == f"1000000-{len(BLOB) - 1}"


def test_an_upload_that_the_registry_has_forgotten_begins_anew(fake, repository):
    fake.answers[f"PUT {FIRST}"] = [takes_only(1_000_000, keep=False)]
    fake.answers[f"GET {FIRST}"] = [lambda handler: handler.error(404, "BLOB_UPLOAD_UNKNOWN")]
    assert repository.push_blob(SOURCE) == "pushed"
    assert len(fake.asked("PUT", SECOND)) == 1


def test_an_answer_that_got_lost(fake, repository):
    def take_all_and_hang_up(handler):
        handler.server.registry.add_blob(handler.body())
        return handler.hang_up()

    fake.answers[f"PUT {FIRST}"] = [take_all_and_hang_up]
    assert repository.push_blob(SOURCE) == "pushed"
    assert SECOND not in [path for _, path, _ in fake.requests]


def test_what_is_too_large_for_one_piece_comes_in_several(fake, repository, monkeypatch):
    monkeypatch.setattr(upload, "_CHUNK", 1_000_000)
    fake.answers[f"PUT {FIRST}"] = [lambda handler: handler.error(413) and handler.hang_up()]
    assert repository.push_blob(SOURCE) == "pushed"
    assert fake.blobs == {digest_of(BLOB): BLOB}
    assert [headers["Content-Range"] for headers in fake.asked("PATCH", SECOND)] == [
        "0-999999",
        "1000000-1999999",
        f"2000000-{len(BLOB) - 1}",
    ]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_registry_in_trouble_is_asked_again(fake, repository, connect, status):
    fake.answers[f"PUT {FIRST}"] = [lambda handler: handler.body() and handler.error(status)]
    assert repository.push_blob(SOURCE) == "pushed"
    assert len(connect.pauses) == 1


def test_an_upload_that_always_breaks_ends(fake, repository):
    for number in range(5):
        fake.always[f"PUT /v2/app/blobs/uploads/s{number}"] = takes_only(10, keep=False)
    with pytest.raises(RegistryError, match=f"push of {fake.host}/app:1: registry {fake.host}: ") as caught:
        repository.push_blob(SOURCE)
    assert caught.value.status is None
    assert sum(method == "PUT" for method, _, _ in fake.requests) == 3


def test_a_refusal_is_final(fake, repository):
    fake.always["POST /v2/app/blobs/uploads/"] = lambda handler: handler.error(403, "DENIED", "read only")
    with pytest.raises(RegistryError, match="403 Forbidden: DENIED: read only"):
        repository.push_blob(SOURCE)
    fake.always["PUT /v2/app/manifests/1"] = lambda handler: (
        handler.body() and handler.error(400, "MANIFEST_INVALID", "no")
    )
    with pytest.raises(RegistryError, match="MANIFEST_INVALID: no"):
        repository.push_manifest(b"{}", OCI_MANIFEST, "1")


def test_a_registry_that_took_another_manifest(fake, repository):
    fake.always["PUT /v2/app/manifests/1"] = lambda handler: (
        handler.body() and handler.reply(201, headers={"Docker-Content-Digest": digest_of(b"other")})
    )
    with pytest.raises(RegistryError, match=f"it took the manifest for {digest_of(b'other')}"):
        repository.push_manifest(b"{}", OCI_MANIFEST, "1")


def test_an_upload_may_go_elsewhere(fake, repository):
    storage = FakeRegistry()
    storage.uploads["s9"] = b""
    try:
        fake.always["POST /v2/app/blobs/uploads/"] = lambda handler: handler.reply(
            202, headers={"Location": f"{storage.url}/v2/app/blobs/uploads/s9"}
        )
        assert repository.push_blob(SOURCE) == "pushed"
        assert storage.blobs == {digest_of(BLOB): BLOB}
    finally:
        storage.close()


def test_an_upload_without_a_place(fake, repository):
    fake.always["POST /v2/app/blobs/uploads/"] = lambda handler: handler.reply(202)
    with pytest.raises(RegistryError, match="does not say where the upload goes on"):
        repository.push_blob(SOURCE)


def test_a_neighbour_that_may_not_be_named_costs_nothing(fake, repository):
    fake.answers["POST /v2/app/blobs/uploads/"] = [lambda handler: handler.error(403, "DENIED")]
    assert repository.push_blob(SOURCE, mount_from=["private"]) == "pushed"
