"""Debian's docker-registry on loopback, in each of its ways, and a registry that does as it is told."""

import os
import subprocess

import pytest
from fake_registry import FakeRegistry
from peers import peer
from registry_peers import PASSWORD, USER, DockerRegistry

from pytest_capsule.oci.reference import Reference
from pytest_capsule.registry.client import Client
from pytest_capsule.registry.patience import Patience
from pytest_capsule.registry.settings import RegistrySettings


@pytest.fixture
def start_registry(tmp_path_factory):
    started = []

    def start(**how):
        started.append(DockerRegistry(tmp_path_factory.mktemp("registry"), **how))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def docker_registry(start_registry):
    """One that lets everybody in, over plain HTTP."""
    return start_registry()


@pytest.fixture
def private_registry(start_registry, tmp_path):
    """One that wants a name and a password."""
    file = tmp_path / "htpasswd"
    file.write_text(
        subprocess.run(
            [peer("htpasswd"), "-Bbn", USER, PASSWORD], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    return start_registry(auth=f"auth:\n  htpasswd:\n    realm: tests\n    path: {file}\n")


@pytest.fixture
def authority(tmp_path):
    """A private certificate authority and a server's certificate of it: ca.crt, server.crt, server.key."""
    folder = tmp_path / "tls"
    folder.mkdir()

    def openssl(*words):
        subprocess.run([peer("openssl"), *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=tests")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=registry.test")
    (folder / "names").write_text("subjectAltName=DNS:registry.test,IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-out", "server.crt", "-days", "2", "-extfile", "names"),
    )
    return folder


@pytest.fixture
def tls_registry(start_registry, authority):
    """One with a certificate of that authority."""
    return start_registry(tls=f"  tls:\n    certificate: {authority}/server.crt\n    key: {authority}/server.key\n")


@pytest.fixture
def fake():
    registry = FakeRegistry()
    yield registry
    registry.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, with nobody's credentials; ``log_in`` writes some into it."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def connect(home):
    """Makes clients, closed when the test ends: ``connect("127.0.0.1:5000/app:1")`` gives the repository."""
    clients, pauses = [], []

    def make(reference, *, purpose="pull", mirrors=None, insecure=(), timeout=30, attempts=3, **environment):
        settings = RegistrySettings.of(mirrors or {}, insecure)
        known = {"HOME": str(home), "PATH": os.environ["PATH"], **environment}
        patience = Patience(attempts=attempts, sleep=pauses.append)
        clients.append(Client(settings, environment=known, patience=patience, timeout=timeout))
        return clients[-1].repository(Reference.parse(reference), purpose)

    make.pauses = pauses
    yield make
    for client in clients:
        client.close()
