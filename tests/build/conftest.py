"""A project to build images from, and what its builds did."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from peers import peer

from pytest_capsule import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """One engine on a store of its own for all tests: each test builds from other files, or empties the cache."""
    with Engine(cache_dir=tmp_path_factory.mktemp("store")) as engine:
        yield engine


@dataclass
class Project:
    """A folder with a Dockerfile, and the events of the builds made from it."""

    root: Path
    engine: Engine
    events: list = field(default_factory=list)

    def write(self, path, content="", mode=0o644):
        """A file of the context."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)
        return file

    def build(self, dockerfile=None, **options):
        """Build, from this text as the Dockerfile where it is given; ``events`` are then those of this build."""
        if dockerfile is not None:
            self.write("Dockerfile", dockerfile)
        self.events = []
        return self.engine.build(self.root, progress=self.events.append, **options)

    def kinds(self):
        """What happened to each step but FROM: ``["done", "cached"]``."""
        ends = ("cached", "done", "failed", "canceled")
        steps = [event for event in self.events if event.step and "] FROM " not in event.name]
        return [event.kind for event in steps if event.kind in ends]

    def count(self):
        """How many steps were cached, done and failed."""
        return Counter(self.kinds())

    def output(self):
        """What the steps have printed."""
        return "".join(event.text for event in self.events if event.kind == "output")

    def files(self, image):
        """A container of the image that runs nothing, to look at files."""
        return self.engine.run(image, command=[])


def status(container, path):
    """``lstat`` of a path inside: mode, uid, gid, size, mtime_ns, rdev."""
    return SimpleNamespace(**container._call({"op": "stat", "path": path, "follow": False})[0]["stat"])


@pytest.fixture(name="status")
def status_fixture():
    return status


@pytest.fixture
def project(tmp_path, engine):
    """An empty folder, to be filled."""
    root = tmp_path / "project"
    root.mkdir()
    return Project(root, engine)


def names_in(layer):
    """The paths in a layer, as they lie on disk."""
    found = []
    for folder, folders, files in os.walk(layer.path):
        found += [os.path.relpath(os.path.join(folder, name), layer.path) for name in (*folders, *files)]
    return sorted(found)


@pytest.fixture(name="names_in")
def names_in_fixture():
    return names_in


@pytest.fixture
def agent(tmp_path):
    """An SSH agent that has one key: its socket."""
    path = tmp_path / "agent"
    process = subprocess.Popen([peer("ssh-agent"), "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert process.poll() is None
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the key", "-f", str(tmp_path / "key")], check=True
        )
        env = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", str(tmp_path / "key")], check=True, env=env, stderr=subprocess.DEVNULL)
        yield path
    finally:
        process.kill()
        process.wait()
