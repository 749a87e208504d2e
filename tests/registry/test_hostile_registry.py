"""Registries that refuse, lie, break off and send elsewhere: one clear error, or another try that does it."""

import json
import threading

import pytest
from fake_registry import FakeRegistry, digest_of

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.reference import Reference
from pytest_capsule.registry.client import LARGEST_DOCUMENT

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}).encode()
BLOB = bytes(range(256)) * 20_000
BLOB_PATH = f"/v2/app/blobs/{digest_of(BLOB)}"
GET_MANIFEST = "GET /v2/app/manifests/1"
GET_BLOB = f"GET {BLOB_PATH}"


@pytest.fixture
def repository(fake, connect):
    fake.add_manifest("app", "1", MANIFEST, OCI_MANIFEST)
    fake.add_blob(BLOB)
    return connect(f"{fake.host}/app:1")


def read(repository):
    return b"".join(repository.blob(Descriptor.of(BLOB, OCI_LAYER_GZIP)))


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (401, "UNAUTHORIZED", "see whether"),
        (403, "DENIED", "docker login"),
        (404, "MANIFEST_UNKNOWN", "name and tag"),
        (400, "NAME_INVALID", "ask who runs"),
        (418, "", "ask who runs"),
    ],
)
def test_a_refusal_is_told_once_with_what_to_do(fake, repository, status, code, hint):
    fake.always[GET_MANIFEST] = lambda handler: handler.error(status, code, "said the registry")
    with pytest.raises(RegistryError) as caught:
        repository.manifest("1")
    error = caught.value
    assert str(error).startswith(f"pull of {fake.host}/app:1: registry {fake.host}: it ")
    assert error.status == status
    assert error.call == f"GET http://{fake.host}/v2/app/manifests/1"
    assert hint in error.hint
    if status not in (401, 418):
        assert f"{code}: said the registry" in error.message
    assert len(fake.asked("GET", "/v2/app/manifests/1")) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(fake, repository, connect, status):
    fake.answers[GET_MANIFEST] = [lambda handler: handler.error(status)] * 2
    assert repository.manifest("1").data == MANIFEST
    assert len(connect.pauses) == 2

    fake.always[GET_MANIFEST] = lambda handler: handler.error(status)
    with pytest.raises(RegistryError, match=f"it answered {status}") as caught:
        repository.manifest("1")
    assert caught.value.status == status
    assert len(fake.asked("GET", "/v2/app/manifests/1")) == 3 + 3


def test_it_waits_for_as_long_as_the_registry_says_but_not_for_ever(fake, repository, connect):
    fake.answers[GET_MANIFEST] = [
        lambda handler: handler.error(429, headers={"Retry-After": "7"}),
        lambda handler: handler.error(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    ]
    assert repository.manifest("1").data == MANIFEST
    assert connect.pauses[0] == 7
    assert connect.pauses[1] < 7
    fake.answers[GET_MANIFEST] = [lambda handler: handler.error(429, headers={"Retry-After": "86400"})]
    with pytest.raises(RegistryError, match="429"):
        repository.manifest("1")
    assert len(connect.pauses) == 2


def test_a_registry_that_hangs_up(fake, repository):
    fake.answers[GET_MANIFEST] = [lambda handler: handler.hang_up()]
    assert repository.manifest("1").data == MANIFEST
    fake.always[GET_MANIFEST] = lambda handler: handler.hang_up()
    with pytest.raises(RegistryError, match=r"registry 127\.0\.0\.1:\d+: no HTTP answer") as caught:
        repository.manifest("1")
    assert caught.value.status is None


def test_a_chunk_of_less_than_nothing(fake, repository):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc")
        return handler.hang_up()

    fake.always[GET_MANIFEST] = answer
    with pytest.raises(RegistryError, match="no HTTP answer"):
        repository.manifest("1")


def test_nobody_there(connect, fake):
    fake.close()
    with pytest.raises(RegistryError, match="Connection refused") as caught:
        connect(f"{fake.host}/app:1").manifest("1")
    assert "can be reached" in caught.value.hint
    assert connect.pauses == []


def test_a_registry_that_says_nothing(fake, connect):
    silence = threading.Event()
    fake.always[GET_MANIFEST] = lambda handler: silence.wait(30)
    try:
        with pytest.raises(RegistryError, match="it did not answer in time"):
            connect(f"{fake.host}/app:1", timeout=0.1, attempts=2).manifest("1")
    finally:
        silence.set()


# -- manifests -------------------------------------------------------------------------------------------------------


def test_a_manifest_that_is_not_what_its_digest_says(fake, repository):
    fake.manifests["app", digest_of(b"other")] = (MANIFEST, OCI_MANIFEST)
    with pytest.raises(RegistryError, match=f"its manifest is not {digest_of(b'other')}, as it has to be"):
        repository.manifest(Digest.of(b"other"))
    fake.always[GET_MANIFEST] = lambda handler: handler.reply(
        200, MANIFEST, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(b"other")}
    )
    with pytest.raises(RegistryError, match="its manifest is not"):
        repository.manifest("1")


def test_a_manifest_that_is_none(fake, repository):
    fake.always[GET_MANIFEST] = lambda handler: handler.reply(200, b"<html>", {"Content-Type": "text/html"})
    with pytest.raises(RegistryError, match="answered with a web page"):
        repository.manifest("1")
    fake.always[GET_MANIFEST] = lambda handler: handler.reply(200, b" " * (LARGEST_DOCUMENT + 1))
    with pytest.raises(RegistryError, match="its manifest is larger than"):
        repository.manifest("1")
    fake.always[GET_MANIFEST] = lambda handler: handler.reply(200, MANIFEST, length=9999) and handler.hang_up()
    with pytest.raises(RegistryError, match="the answer ended early"):
        repository.manifest("1")


def test_what_a_registry_says_is_fit_for_a_terminal(fake, repository):
    fake.always[GET_MANIFEST] = lambda handler: handler.error(403, "DENIED", "\x1b[2J" + "x" * 5000)
    with pytest.raises(RegistryError) as caught:
        repository.manifest("1")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# -- blobs -----------------------------------------------------------------------------------------------------------


def breaks_off(after):
    def answer(handler):
        handler.reply(200, BLOB[:after], length=len(BLOB))
        return handler.hang_up()

    return answer


def test_a_download_goes_on_where_it_broke_off(fake, repository):
    fake.answers[GET_BLOB] = [breaks_off(3_000_001), breaks_off(0)]
    assert read(repository) == BLOB
    assert [headers.get("Range") for headers in fake.asked("GET", BLOB_PATH)] == [
        None,
        "bytes=3000001-",
        "bytes=3000001-",
    ]


def test_a_registry_that_knows_no_ranges_is_read_from_the_start(fake, repository):
    fake.answers[GET_BLOB] = [breaks_off(3_000_001), lambda handler: handler.reply(200, BLOB)]
    assert read(repository) == BLOB


def test_another_range_than_was_asked_for(fake, repository):
    fake.answers[GET_BLOB] = [
        breaks_off(100_000),
        lambda handler: handler.reply(206, BLOB[200_000:], {"Content-Range": f"bytes 200000-{len(BLOB) - 1}/*"}),
    ]
    with pytest.raises(RegistryError, match="another range"):
        read(repository)


def test_a_download_that_never_ends_ends(fake, repository):
    fake.always[GET_BLOB] = breaks_off(10)
    with pytest.raises(RegistryError, match=f"after 10 of {len(BLOB)} bytes of {digest_of(BLOB)}"):
        read(repository)
    assert len(fake.asked("GET", BLOB_PATH)) == 3


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (BLOB[:-1] + b"?", "what it sent is not"),
        (BLOB + b"?", "it sends more than the"),
        (BLOB[:-5], "the answer ended early"),
    ],
)
def test_a_blob_that_is_another(fake, repository, sent, said):
    fake.always[GET_BLOB] = lambda handler: handler.reply(200, sent)
    with pytest.raises(RegistryError, match=said) as caught:
        read(repository)
    assert digest_of(BLOB) in str(caught.value)


# -- elsewhere -------------------------------------------------------------------------------------------------------


def test_a_blob_may_lie_elsewhere(fake, connect):
    storage = FakeRegistry()
    try:
        storage.add_blob(BLOB)
        fake.always[GET_BLOB] = lambda handler: handler.reply(
            307, headers={"Location": f"{storage.url}{BLOB_PATH}?signature=secret"}
        )
        storage.answers[GET_BLOB] = [breaks_off(500_000)]
        assert read(connect(f"{fake.host}/app:1")) == BLOB
        storage.always[GET_BLOB] = lambda handler: handler.error(403)
        with pytest.raises(RegistryError, match="403") as caught:
            read(connect(f"{fake.host}/app:1"))
        assert "secret" not in str(caught.value)
    finally:
        storage.close()


def test_no_end_of_redirects(fake, repository):
    fake.always[GET_BLOB] = lambda handler: handler.reply(302, headers={"Location": BLOB_PATH})
    with pytest.raises(RegistryError, match="redirects more than 10 times"):
        read(repository)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://storage.example/blob", "redirects to storage.example over plain HTTP"),
        ("file:///etc/shadow", "what is no address of HTTP"),
        ("http://[::1", "what is no address of HTTP"),
        ("http://127.0.0.1:99999/", "what is no address of HTTP"),
        ("http://127.0.0.1:1/a b\u00e9", "Connection refused"),
        (f"https://{'a' * 64}.example/", "no host can have that name"),
    ],
)
def test_a_redirect_that_is_not_followed(fake, repository, location, said):
    fake.always[GET_BLOB] = lambda handler: handler.reply(307, headers={"Location": location})
    with pytest.raises(RegistryError, match=said):
        read(repository)


def test_mirrors_come_first_and_the_registry_last(fake, connect):
    mirror = FakeRegistry()
    try:
        mirror.add_manifest("app", "1", MANIFEST, OCI_MANIFEST)
        for registry in (mirror, fake):
            registry.add_blob(BLOB)
        repository = connect(f"{fake.host}/app:1", mirrors={fake.host: ["127.0.0.1:1", mirror.host]})
        assert repository.manifest("1").data == MANIFEST
        assert fake.requests == []
        mirror.always[GET_BLOB] = breaks_off(200_000)
        assert read(repository) == BLOB
        assert fake.asked("GET", BLOB_PATH)[0]["Range"].startswith("bytes=200000-")
        with pytest.raises(RegistryError, match=f"registry {fake.host}: it answered 404"):
            repository.manifest("2")
    finally:
        mirror.close()


def test_docker_hub_has_a_place_of_its_own(fake, connect):
    fake.add_manifest("library/alpine", "3", MANIFEST, OCI_MANIFEST)
    repository = connect("alpine:3", mirrors={"docker.io": [f"http://{fake.host}"]})
    assert repository.reference == Reference("docker.io", "library/alpine", "3")
    assert repository.manifest("3").data == MANIFEST
