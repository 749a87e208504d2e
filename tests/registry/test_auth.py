"""Tokens: asked for once, used until they expire, of the right server; and a secret goes nowhere else."""

import base64
import contextlib
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_registry import FakeRegistry, digest_of
from registry_peers import auths, write_config

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.reference import Reference
from pytest_capsule.registry.client import Client
from pytest_capsule.registry.patience import Patience
from pytest_capsule.registry.settings import RegistrySettings

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}).encode()
BLOB = b"layer"
BASIC = "Basic " + base64.b64encode(b"me:s3cret").decode()


class TokenServer(FakeRegistry):
    """Gives ``t1 SCOPES``, ``t2 SCOPES``, ...; ``lifetime`` is what it says of them. Registries take the newest."""

    def __init__(self):
        super().__init__()
        self.given = []
        self.lifetime = 300
        self.more = {}
        self.forms = []
        self.refuses = False
        self.always["GET /token"] = self.always["POST /token"] = self._give

    def _give(self, handler):
        form = parse_qs(urlsplit(handler.path).query or handler.body().decode())
        self.forms.append(form)
        if self.refuses:
            return handler.error(401, "UNAUTHORIZED", "s3cret is wrong")
        self.given.append(f"t{len(self.given) + 1}")
        body = {"token": self.given[-1], "expires_in": self.lifetime, **self.more}
        return handler.reply(200, json.dumps(body).encode())


@pytest.fixture
def tokens():
    server = TokenServer()
    yield server
    server.close()


@pytest.fixture
def guarded(fake, tokens):
    """A registry that lets only bearers of the newest token in."""
    fake.add_manifest("app", "1", MANIFEST, OCI_MANIFEST)
    fake.add_blob(BLOB)
    fake.error_code = "invalid_token"

    def guard(handler):
        if tokens.given and handler.headers.get("Authorization") == f"Bearer {tokens.given[-1]}":
            return False
        scope = "" if handler.path == "/v2/" else ',scope="repository:app:pull"'
        challenge = f'Bearer realm="{tokens.url}/token",service="tests"{scope},error="{fake.error_code}"'
        return handler.reply(401, headers={"WWW-Authenticate": challenge})

    for path in ("/v2/", "/v2/app/manifests/1", f"/v2/app/blobs/{digest_of(BLOB)}"):
        fake.always[f"GET {path}"] = fake.always[f"HEAD {path}"] = guard
    return fake


def read(repository):
    return b"".join(repository.blob(Descriptor.of(BLOB, OCI_LAYER_GZIP)))


def test_one_token_for_all_that_needs_the_same(guarded, tokens, connect):
    repository = connect(f"{guarded.host}/app:1")
    assert repository.manifest("1").data == MANIFEST
    assert read(repository) == BLOB
    assert tokens.forms == [{"service": ["tests"], "scope": ["repository:app:pull"]}]
    assert "Authorization" not in tokens.requests[0][2]
    assert len(guarded.asked("GET", "/v2/app/manifests/1")) == 1  # what the token is for was known before


def test_a_password_goes_to_the_token_server_and_only_there(guarded, tokens, connect, home):
    write_config(home / ".docker", auths(**{guarded.host: "me:s3cret"}))
    assert connect(f"{guarded.host}/app:1").manifest("1").data == MANIFEST
    assert tokens.requests[0][2]["Authorization"] == BASIC
    assert {headers.get("Authorization") for _, _, headers in guarded.requests} == {None, "Bearer t1"}


def test_an_identity_token(guarded, tokens, connect, home):
    write_config(home / ".docker", {"auths": {guarded.host: {"identitytoken": "s3cret"}}})
    assert connect(f"{guarded.host}/app:1").manifest("1").data == MANIFEST
    assert tokens.requests[0][0] == "POST"
    assert tokens.forms[0] == {
        "grant_type": ["refresh_token"],
        "service": ["tests"],
        "client_id": ["pytest-capsule"],
        "scope": ["repository:app:pull"],
        "refresh_token": ["s3cret"],
    }


def test_a_newer_identity_token_takes_the_place_of_the_first(guarded, tokens, connect, home):
    """A server may hand out one with each token, after which the one before is good for nothing."""
    written = {"auths": {guarded.host: {"identitytoken": "s3cret"}}}
    write_config(home / ".docker", written)
    tokens.lifetime = 0.0001
    repository = connect(f"{guarded.host}/app:1")
    for number, newer in enumerate(["n3wer", "n3west", "n3west", 7, None]):
        tokens.more = {} if newer is None else {"refresh_token": newer}
        assert repository.manifest("1").data == MANIFEST, number
    assert [form["refresh_token"] for form in tokens.forms] == [
        ["s3cret"],
        ["n3wer"],
        ["n3west"],
        ["n3west"],
        ["n3west"],
    ]
    assert json.loads((home / ".docker/config.json").read_text()) == written  # that is for whoever logs in

    def echo(handler):
        return handler.error(403, "DENIED", "neither s3cret nor n3wer nor n3west will do")

    guarded.always["GET /v2/app/manifests/1"] = echo
    with pytest.raises(RegistryError, match="neither") as caught:
        repository.manifest("1")
    assert not [secret for secret in ("s3cret", "n3wer", "n3west") if secret in str(caught.value)]


def test_a_newer_identity_token_is_that_of_all_repositories(guarded, tokens, home):
    """The written one may be spent when the next repository is asked for."""
    write_config(home / ".docker", {"auths": {guarded.host: {"identitytoken": "s3cret"}}})
    tokens.more = {"refresh_token": "n3wer"}
    guarded.add_manifest("other", "1", MANIFEST, OCI_MANIFEST)
    guarded.always["GET /v2/other/manifests/1"] = guarded.always["GET /v2/app/manifests/1"]
    client = Client(RegistrySettings.of({}, []), environment={"HOME": str(home)}, patience=Patience(attempts=2))
    with contextlib.closing(client):
        for name in ("app", "other"):
            reference = Reference.parse(f"{guarded.host}/{name}:1")
            assert client.repository(reference, "pull").manifest("1").data == MANIFEST
    assert {form["refresh_token"][0] for form in tokens.forms[1:]} == {"n3wer"}
    assert tokens.forms[0]["refresh_token"] == ["s3cret"]


def test_an_anonymous_token_comes_with_no_identity(guarded, tokens, connect):
    tokens.lifetime, tokens.more = 0.0001, {"refresh_token": "somebody's"}
    repository = connect(f"{guarded.host}/app:1")
    for _ in range(2):
        assert repository.manifest("1").data == MANIFEST
    assert {method for method, _, _ in tokens.requests} == {"GET"}


def test_a_token_that_has_expired_is_replaced(guarded, tokens, connect):
    repository = connect(f"{guarded.host}/app:1")
    assert repository.manifest("1").data == MANIFEST
    tokens.given.append("newer")  # the registry takes the first no longer
    assert read(repository) == BLOB
    assert tokens.given[-1] == "t3"
    tokens.lifetime = 0.0001
    repository = connect(f"{guarded.host}/app:1")
    assert repository.manifest("1").data == MANIFEST
    assert read(repository) == BLOB
    assert len(tokens.forms) == 4


def test_a_token_that_does_not_do_is_not_asked_for_again_and_again(guarded, tokens, connect):
    repository = connect(f"{guarded.host}/app:1")
    guarded.error_code = "insufficient_scope"
    assert repository.manifest("1").data == MANIFEST
    tokens.given.append("newer")
    with pytest.raises(RegistryError, match="it wants credentials, and there are none for it") as caught:
        read(repository)
    assert caught.value.status == 401
    assert len(tokens.forms) == 1


def test_a_token_server_that_refuses(guarded, tokens, connect, home):
    write_config(home / ".docker", auths(**{guarded.host: "me:s3cret"}))
    tokens.refuses = True
    with pytest.raises(RegistryError, match=r"refuses the credentials of .*config\.json") as caught:
        connect(f"{guarded.host}/app:1").manifest("1")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", pytest.param(b"[" * 5000, id="too deep"), b'{"token": 1}', b'{"token": "a\\nb"}', b'{"token": ""}'],
)
def test_a_token_server_that_gives_none(guarded, tokens, connect, body):
    tokens.always["GET /token"] = lambda handler: handler.reply(200, body)
    with pytest.raises(RegistryError, match=f"its token server {tokens.host} gave no token"):
        connect(f"{guarded.host}/app:1").manifest("1")


def test_a_token_server_in_trouble_is_asked_again(guarded, tokens, connect):
    tokens.answers["GET /token"] = [lambda handler: handler.error(503), lambda handler: handler.hang_up()]
    assert connect(f"{guarded.host}/app:1").manifest("1").data == MANIFEST


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ('Bearer realm="http://tokens.example/"', "its token server tokens.example is to be reached over plain HTTP"),
        ('Bearer realm="file:///etc"', "it names no token server"),
        ('Bearer realm="http://["', "it names no token server"),
        ('Bearer realm="https://127.0.0.1:99999/"', "it names no token server"),
        (f'Bearer realm="https://{"a" * 64}.example/"', "no host can have that name"),
        ("Bearer", "it names no token server"),
        ("Negotiate", "in a way that is not known"),
        (None, "does not say what it asks for"),
    ],
)
def test_a_challenge_that_is_not_answered(fake, connect, home, challenge, said):
    write_config(home / ".docker", auths(**{fake.host: "me:s3cret"}))
    headers = {} if challenge is None else {"WWW-Authenticate": challenge}
    for path in ("/v2/", "/v2/app/manifests/1"):
        fake.always[f"GET {path}"] = lambda handler: handler.reply(401, headers=headers)
    with pytest.raises(RegistryError, match=said):
        connect(f"{fake.host}/app:1").manifest("1")
    assert all("Authorization" not in headers for _, _, headers in fake.requests)


def wants_a_password(handler):
    if handler.headers.get("Authorization") == BASIC:
        return False
    return handler.reply(401, headers={"WWW-Authenticate": 'Basic realm="tests"'})


def test_no_secret_goes_along_when_it_is_sent_elsewhere(fake, connect, home):
    storage = FakeRegistry()
    try:
        storage.add_blob(BLOB)
        write_config(home / ".docker", auths(**{fake.host: "me:s3cret", storage.host: "me:s3cret"}))
        blob = f"/v2/app/blobs/{digest_of(BLOB)}"
        fake.always["GET /v2/"] = wants_a_password
        fake.always[f"GET {blob}"] = lambda handler: (
            wants_a_password(handler) or handler.reply(307, headers={"Location": f"{storage.url}{blob}"})
        )
        assert read(connect(f"{fake.host}/app:1")) == BLOB
        assert fake.asked("GET", blob)[0]["Authorization"] == BASIC
        storage.always[f"GET {blob}"] = wants_a_password  # who is no registry gets nothing, though it asks
        with pytest.raises(RegistryError, match="401"):
            read(connect(f"{fake.host}/app:1"))
        assert all("Authorization" not in headers for _, _, headers in storage.requests)
    finally:
        storage.close()


def test_a_mirror_gets_its_own_credentials_or_none(fake, connect, home):
    mirror = FakeRegistry()
    try:
        fake.add_manifest("app", "1", MANIFEST, OCI_MANIFEST)
        write_config(home / ".docker", auths(**{fake.host: "me:s3cret"}))
        for registry in (mirror, fake):
            for path in ("/v2/", "/v2/app/manifests/1"):
                registry.always[f"GET {path}"] = wants_a_password
        assert connect(f"{fake.host}/app:1", mirrors={fake.host: [mirror.host]}).manifest("1").data == MANIFEST
        assert all("Authorization" not in headers for _, _, headers in mirror.requests)
    finally:
        mirror.close()


def test_a_registry_that_sends_back_what_it_was_told(fake, connect, home):
    write_config(home / ".docker", auths(**{fake.host: "me:s3cret"}))
    fake.always["GET /v2/"] = wants_a_password
    fake.always["GET /v2/app/manifests/1"] = lambda handler: (
        wants_a_password(handler) or handler.error(403, "DENIED", f"{handler.headers['Authorization']} is me:s3cret")
    )
    with pytest.raises(RegistryError, match="DENIED") as caught:
        connect(f"{fake.host}/app:1").manifest("1")
    assert "s3cret" not in str(caught.value)
    assert BASIC.removeprefix("Basic ") not in str(caught.value)


def test_proxies_of_the_environment(fake, connect):
    """A proxy is asked for the whole address; what is excluded, and this machine itself, is reached without one."""
    proxy = FakeRegistry()
    try:
        proxy.add_manifest("app", "1", MANIFEST, OCI_MANIFEST)
        environment = {"http_proxy": f"http://me:s3cret@{proxy.host}"}
        repository = connect("quay.io/app:1", mirrors={"quay.io": ["http://registry.test"]}, **environment)
        assert repository.manifest("1").data == MANIFEST
        assert proxy.requests[-1][2]["Proxy-Authorization"] == BASIC
        assert proxy.requests[-1][2]["Host"] == "registry.test"
        fake.add_manifest("app", "1", b"own", OCI_MANIFEST)
        assert connect(f"{fake.host}/app:1", **environment).manifest("1").digest == Digest.of(b"own")
    finally:
        proxy.close()
