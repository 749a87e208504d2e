"""Where credentials are found: Docker's files, podman's, and helpers; and what a challenge may look like."""

import base64
import json

import pytest
from registry_peers import auths, write_config

from pytest_capsule.errors import UsageError
from pytest_capsule.registry.challenges import Challenge, parse_challenges
from pytest_capsule.registry.credentials import Credentials, find_credentials
from pytest_capsule.registry.settings import HUB_ACCOUNT

HOST = "registry.example:5000"


def find(home, account=HOST, path="team/app", **environment):
    return find_credentials(account, path, environment, home)


def test_nobody_in_particular(tmp_path):
    assert find(tmp_path) is None
    write_config(tmp_path / ".docker", {"auths": {HOST: {}, "other.example": {"auth": "eDp5"}}})
    assert find(tmp_path) is None


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"http://{HOST}/v2/", f"https://{HOST}/v1/", f"{HOST}/v1/"])
def test_dockers_own_file(tmp_path, key):
    write_config(tmp_path / ".docker", auths(**{key: "me:word:with:colons"}))
    found = find(tmp_path)
    assert (found.username, found.password) == ("me", "word:with:colons")
    assert base64.b64decode(found.basic.removeprefix("Basic ")) == b"me:word:with:colons"


def test_the_folder_that_docker_config_names(tmp_path):
    write_config(tmp_path / ".docker", auths(**{HOST: "home:x"}))
    write_config(tmp_path / "other", auths(**{HOST: "other:x"}))
    assert find(tmp_path, DOCKER_CONFIG=str(tmp_path / "other")).username == "other"
    assert find(tmp_path).username == "home"


def test_docker_hub_has_several_names(tmp_path):
    for key in (HUB_ACCOUNT, "docker.io", "https://index.docker.io/v1/"):
        write_config(tmp_path / ".docker", auths(**{key: "hub:x"}))
        assert find(tmp_path, HUB_ACCOUNT, "library/alpine").username == "hub"
    write_config(tmp_path / ".docker", auths(**{"registry-1.docker.io": "hub:x"}))
    assert find(tmp_path, HUB_ACCOUNT, "library/alpine") is None


def test_podmans_files_come_after_and_know_parts_of_a_registry(tmp_path):
    def write(path, config):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))

    write(tmp_path / ".config/containers/auth.json", auths(**{HOST: "config:x"}))
    assert find(tmp_path).username == "config"
    write(tmp_path / "run/containers/auth.json", auths(**{HOST: "run:x", f"{HOST}/team": "team:x"}))
    environment = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find(tmp_path, **environment).username == "team"
    assert find(tmp_path, path="teams/app", **environment).username == "run"
    write(tmp_path / "named.json", auths(**{f"{HOST}/team/app": "named:x"}))
    environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "named.json")
    assert find(tmp_path, **environment).username == "named"
    write_config(tmp_path / ".docker", auths(**{HOST: "docker:x"}))
    assert find(tmp_path, **environment).username == "docker"


def test_tokens(tmp_path):
    write_config(
        tmp_path / ".docker",
        {"auths": {HOST: {"auth": "bWU6", "identitytoken": "idt"}, "raw.example": {"registrytoken": "raw"}}},
    )
    assert find(tmp_path).identity_token == "idt"
    assert find(tmp_path, "raw.example").registry_token == "raw"


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Puts a credential helper on PATH: a shell script, which has the host in ``$host``."""

    def install(script, name="docker-credential-tests"):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f'#!/bin/sh\n[ "$1" = get ] || exit 9\nhost=$(cat)\n{script}\n')
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return {"PATH": f"{folder}:/usr/bin:/bin"}

    return install


def test_a_helper(tmp_path, helper):
    environment = helper('echo "{\\"ServerURL\\": \\"$host\\", \\"Username\\": \\"of $host\\", \\"Secret\\": \\"s\\"}"')
    write_config(tmp_path / ".docker", {"credsStore": "tests", "auths": {HOST: {}}})
    assert find(tmp_path, **environment).username == f"of {HOST}"
    assert find(tmp_path, HUB_ACCOUNT, **environment).username == f"of {HUB_ACCOUNT}"
    write_config(tmp_path / ".docker", {"credHelpers": {HOST: "tests", "docker.io": "tests"}})
    assert find(tmp_path, **environment).password == "s"
    assert find(tmp_path, HUB_ACCOUNT, **environment).password == "s"
    assert find(tmp_path, "other.example", **environment) is None


def test_a_helper_that_gives_an_identity_token(tmp_path, helper):
    environment = helper('echo \'{"Username": "<token>", "Secret": "idt"}\'')
    write_config(tmp_path / ".docker", {"credsStore": "tests"})
    assert find(tmp_path, **environment) == Credentials("docker-credential-tests", identity_token="idt")


def test_a_helper_that_has_none(tmp_path, helper):
    environment = helper("echo 'credentials not found in native keychain'; exit 1")
    write_config(tmp_path / ".docker", {"credsStore": "tests"})
    assert find(tmp_path, **environment) is None


@pytest.mark.parametrize(
    ("script", "said"), [("echo s3cret; exit 3", "failed with code 3"), ("echo s3cret", "gave no JSON object")]
)
def test_a_helper_that_fails_tells_no_secret(tmp_path, helper, script, said):
    environment = helper(script)
    write_config(tmp_path / ".docker", {"credsStore": "tests"})
    with pytest.raises(UsageError, match=said) as caught:
        find(tmp_path, **environment)
    assert "s3cret" not in str(caught.value)
    assert f"echo {HOST} | docker-credential-tests get" in caught.value.hint


def test_a_helper_that_is_not_installed(tmp_path):
    write_config(tmp_path / ".docker", {"credsStore": "missing"})
    with pytest.raises(UsageError, match="docker-credential-missing is not installed"):
        find(tmp_path, PATH="/nowhere")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"registry.example:5000": {"auth": "%%%"}}}'])
def test_a_file_that_is_none(tmp_path, text):
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(text)
    with pytest.raises(UsageError, match=r"\.docker/config\.json cannot be read"):
        find(tmp_path)


def test_credentials_show_no_secret():
    shown = repr(Credentials("file", "me", "word", "idt", "raw"))
    assert shown == "Credentials(source='file')"


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="a, b"', [Challenge("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull,push"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://auth.example/token", "service": "s", "scope": "repository:a:pull,push"},
                )
            ],
        ),
        (
            'BEARER Realm = "x\\"y" , error=invalid_token, Basic realm=z',
            [Challenge("bearer", {"realm": 'x"y', "error": "invalid_token"}), Challenge("basic", {"realm": "z"})],
        ),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("Negotiate, Basic realm=z", [Challenge("negotiate", {}), Challenge("basic", {"realm": "z"})]),
        ('Bearer realm="unfinished', [Challenge("bearer", {})]),
        ("", []),
        ("=,=", []),
    ],
)
def test_challenges(header, challenges):
    assert parse_challenges([header]) == challenges
