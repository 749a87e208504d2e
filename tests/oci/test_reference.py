import pytest

from pytest_capsule.errors import InvalidReference
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.reference import Reference

DIGEST = str(Digest.of(b"image"))


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("postgres", "docker.io/library/postgres:latest", "postgres:latest"),
        ("postgres:16", "docker.io/library/postgres:16", "postgres:16"),
        ("docker.io/postgres", "docker.io/library/postgres:latest", "postgres:latest"),
        ("docker.io/library/postgres", "docker.io/library/postgres:latest", "postgres:latest"),
        ("index.docker.io/postgres", "docker.io/library/postgres:latest", "postgres:latest"),
        ("grafana/loki:3.0.0", "docker.io/grafana/loki:3.0.0", "grafana/loki:3.0.0"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        # The first part is a registry when it has a dot, a colon or a capital, or is "localhost".
        ("quay.io/org/app", "quay.io/org/app:latest", "quay.io/org/app:latest"),
        ("registry:5000/app", "registry:5000/app:latest", "registry:5000/app:latest"),
        ("localhost/app:dev", "localhost/app:dev", "localhost/app:dev"),
        ("localhost:5000/team/app:1", "localhost:5000/team/app:1", "localhost:5000/team/app:1"),
        ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
        ("127.0.0.1/app", "127.0.0.1/app:latest", "127.0.0.1/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("team/app/sub", "docker.io/team/app/sub:latest", "team/app/sub:latest"),
        # One word with a number after the colon is a name with a tag, not a host with a port.
        ("registry:5000", "docker.io/library/registry:5000", "registry:5000"),
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        # A digest says it all: no tag is added, and one that is there stays.
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}", f"app@{DIGEST}"),
        (f"app:1@{DIGEST}", f"docker.io/library/app:1@{DIGEST}", f"app:1@{DIGEST}"),
        ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g:latest", "a__b/c--d/e.f_g:latest"),
        ("app:_V1.2-rc", "docker.io/library/app:_V1.2-rc", "app:_V1.2-rc"),
    ],
)
def test_what_a_name_stands_for(text, canonical, familiar):
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert reference.familiar == familiar
    assert Reference.parse(canonical) == reference
    assert Reference.parse(familiar) == reference


def test_the_parts():
    reference = Reference.parse(f"registry.example:5000/team/app:2@{DIGEST}")
    assert reference.domain == "registry.example:5000"
    assert reference.path == "team/app"
    assert reference.name == "registry.example:5000/team/app"
    assert reference.tag == "2"
    assert reference.digest == Digest.of(b"image")


def test_limits():
    path = "a" * 255
    assert Reference.parse(f"registry.example/{path}:{'t' * 128}").path == path
    with pytest.raises(InvalidReference, match="more than 255 characters"):
        Reference.parse(f"registry.example/{path}a")
    with pytest.raises(InvalidReference, match="at most 128 characters"):
        Reference.parse(f"app:{'t' * 129}")


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("", "empty", "name"),
        ("Postgres", "repository name must be lowercase", "write 'postgres'"),
        ("team/App:1", "repository name must be lowercase", "write 'team/app'"),
        ("https://registry.example/app", "is a URL", "write 'registry.example/app'"),
        (" app", "white space", "name"),
        ("app\n", "white space", "name"),
        ("a" * 64, "image id", "name"),
        ("app:", "'' is no tag", "letters"),
        ("app:-x", "'-x' is no tag", "letters"),
        ("app:tág", "'tág' is no tag", "letters"),
        ("app:1:2", "'1:2' is no tag", "letters"),
        ("app@", "not of the form", "name"),
        ("app@sha256:abc", "takes 64", "name"),
        ("app@md5:" + "a" * 32, "unsupported algorithm", "name"),
        (":tag", "'' is no repository name", "name"),
        ("-app", "'-app' is no repository name", "name"),
        ("app-", "'app-' is no repository name", "name"),
        ("a..b", "'a..b' is no repository name", "name"),
        ("a___b", "'a___b' is no repository name", "name"),
        ("team//app", "'team//app' is no repository name", "name"),
        ("team/", "'team/' is no repository name", "name"),
        ("/app", "'/app' is no repository name", "name"),
        ("../app", "'..' is no registry host", "name"),
        ("-host.example/app", "'-host.example' is no registry host", "name"),
        ("foo/bar:5000/baz", "'5000/baz' is no tag", "letters"),
    ],
)
def test_what_is_no_reference(text, reason, hint):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert reason in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.reference == text


def test_a_name_to_give():
    assert Reference.to_give("team/app").familiar == "team/app:latest"
    for text, reason in (
        (f"app@{DIGEST}", "cannot be given"),
        (f"app:1@{DIGEST}", "cannot be given"),
        ("sha256:abc", "looks like a digest"),
        ("sha512", "looks like a digest"),
        ("App", "lowercase"),
    ):
        with pytest.raises(InvalidReference, match=reason):
            Reference.to_give(text)
    assert Reference.to_give("team/sha256:1").tag == "1"


def test_references_are_values():
    assert len({Reference.parse("app"), Reference.parse("docker.io/library/app:latest")}) == 1
