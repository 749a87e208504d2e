"""Debian's docker-registry that lets in who has a token of our own server, signed with a key that openssl made."""

import base64
import json
import subprocess
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_registry import FakeRegistry
from peers import peer
from registry_peers import auths, write_config

from pytest_capsule import Engine
from pytest_capsule.errors import RegistryError

IDENTITY = "an-identity-token"
PAIR = "me:s3cret-word"
HOUR = 3600


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer(FakeRegistry):
    """Gives to who has the password or the identity token what is asked for; ``asked_for`` are (method, scopes).

    ``lifetimes`` are those of the next tokens, in seconds: one that is negative is too old from the beginning.
    """

    def __init__(self, folder):
        super().__init__()
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "2"]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run([peer("openssl"), *words, *files], check=True, capture_output=True)
        self.asked_for = []
        self.lifetimes = []
        self.always["GET /token"] = self.always["POST /token"] = self._give

    def _give(self, handler):
        form = parse_qs(urlsplit(handler.path).query or handler.body().decode())
        if form.get("refresh_token") != [IDENTITY] and handler.headers.get("Authorization") != (
            f"Basic {base64.b64encode(PAIR.encode()).decode()}"
        ):
            return handler.error(401, "UNAUTHORIZED", "nobody knows you")
        scopes = " ".join(form.get("scope", [])).split()
        self.asked_for.append((handler.command, scopes))
        lifetime = self.lifetimes.pop(0) if self.lifetimes else HOUR
        name = "access_token" if handler.command == "POST" else "token"
        return handler.reply(200, json.dumps({name: self._signed(scopes, lifetime), "expires_in": HOUR}).encode())

    def _signed(self, scopes, lifetime):
        lines = self.certificate.read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(line for line in lines if "CERTIFICATE" not in line)]}
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "tests", "sub": "me", "aud": "registry", "exp": now + lifetime, "nbf": now - 3 * HOUR}
        claims |= {"iat": now - 3 * HOUR, "jti": "1", "access": access}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        command = [peer("openssl"), "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{encoded(signature)}"


@pytest.fixture
def tokens(tmp_path):
    server = TokenServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def registry(start_registry, tokens):
    about = f"realm: {tokens.url}/token\n    service: registry\n    issuer: tests\n"
    return start_registry(auth=f"auth:\n  token:\n    {about}    rootcertbundle: {tokens.certificate}\n")


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    return folder


@pytest.mark.parametrize("method", ["GET", "POST"], ids=["password", "identity token"])
def test_push_pull_and_mount(registry, tokens, context, tmp_path, home, method):
    config = auths(**{registry.host: PAIR})
    if method == "POST":
        config["auths"][registry.host] = {"identitytoken": IDENTITY}
    write_config(home / ".docker", config)
    first, second = f"{registry.host}/team/first:1", f"{registry.host}/team/second:1"
    with Engine(tmp_path / "builder") as engine:
        digest = engine.push(engine.build(context), first)
    tokens.lifetimes = [-2 * HOUR]  # which the registry finds out, and the client asks for another
    with Engine(tmp_path / "other") as engine:
        assert engine.pull(first).digest == digest
        events = []
        assert engine.push(first, second, progress=events.append) == digest
    assert "Mounted from team/first" in [event.status for event in events]

    assert {verb for verb, _ in tokens.asked_for} == {method}
    asked = [scopes for _, scopes in tokens.asked_for]
    assert asked.count(["repository:team/first:pull"]) == 2, "the first was too old"
    assert ["repository:team/second:pull,push", "repository:team/first:pull"] in asked
    assert len({tuple(scopes) for scopes in asked}) == len(asked) - 1, "a token serves until it has expired"


def test_a_wrong_password_is_told_and_not_shown(registry, context, tmp_path, home):
    write_config(home / ".docker", auths(**{registry.host: "me:wrong-word"}))
    with (
        Engine(tmp_path / "builder") as engine,
        pytest.raises(RegistryError, match=r"it refuses the credentials of .*config\.json") as caught,
    ):
        engine.push(engine.build(context), f"{registry.host}/team/first:1")
    assert "wrong-word" not in str(caught.value)
