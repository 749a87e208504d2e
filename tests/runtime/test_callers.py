"""Engines in processes that lack what others have, or have what no container may see."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from pytest_capsule import Engine


@pytest.fixture
def cache(engine):
    """A cache with the image of this machine in it."""
    engine.image("capsule/host")
    return str(engine.cache_dir)


def call(script, *arguments, **options):
    """Run a script in a process of its own; what it has written to its first argument, a file."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), *arguments], check=True, timeout=60, **options)
    with open(arguments[0]) as file:
        return file.read()


@pytest.mark.parametrize("closed", ["0", "01", "012", "12"])
def test_a_caller_without_standard_streams(cache, tmp_path, closed):
    """Then descriptors that are handed on stand where whoever is started has its own streams."""
    script = """
        import os, sys
        for number in sys.argv[3]:
            os.close(int(number))
        from pytest_capsule import Engine
        with Engine(cache_dir=sys.argv[2]) as engine, engine.run("capsule/host", command=[]) as container:
            said = container.exec("echo here; ls /proc/self/fd").stdout
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
        os.write(fd, said.encode())
    """
    assert call(script, str(tmp_path / "said"), cache, closed).split() == ["here", "0", "1", "2", "3"]


@pytest.mark.parametrize("options", [{}, {"cap_add": ["SYS_PTRACE"]}, {"privileged": True}], ids=str)
def test_no_container_sees_the_environment_of_whoever_runs_the_tests(cache, monkeypatch, options):
    """Init is forked from a process of theirs, and who may trace it may read what that one was given."""
    monkeypatch.setenv("TOKEN_OF_THE_CI", "geheim")
    with Engine(cache_dir=cache) as engine, engine.run("capsule/host", command=[], **options) as container:
        found = container.exec("env; cat /proc/1/environ /proc/self/environ").stdout
        assert "HOSTNAME=" in found
        assert "geheim" not in found
        assert "TOKEN_OF_THE_CI" not in found
    assert os.environ["TOKEN_OF_THE_CI"] == "geheim"
