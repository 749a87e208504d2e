"""What ``capsule pull`` and ``push`` print, and a terminal's view of them."""

import io
import json
import re

import pytest
from commands import carry_out

from pytest_capsule.cli.registry import TransferProgress
from pytest_capsule.distribution import TransferEvent


@pytest.fixture
def capsule(tmp_path, home, capfdbinary):
    """``capsule("pull", NAME)`` carries that out on the store ``cache``."""

    def run(*words, cache="cache"):
        return carry_out(capfdbinary, words, {"CAPSULE_CACHE_DIR": str(tmp_path / cache), "CAPSULE_PULL": "missing"})

    return run


def test_dockers_words_there_and_back(docker_registry, capsule):
    name = f"{docker_registry.host}/greeting"
    assert capsule("tag", "hello-world", name).returncode == 0
    pushed = capsule("push", name)
    assert pushed.returncode == 0, pushed.stderr
    layer = re.search(r"^([0-9a-f]{12}): Preparing$", pushed.stdout, re.MULTILINE)[1]
    digest = re.search(r"^latest: digest: (sha256:[0-9a-f]{64}) size: \d+$", pushed.stdout, re.MULTILINE)[1]
    assert pushed.stdout.splitlines() == [
        f"The push refers to repository [{name}]",
        f"{layer}: Preparing",
        f"{layer}: Pushed",
        pushed.stdout.splitlines()[-1],
    ]
    assert f"{layer}: Layer already exists" in capsule("push", name).stdout
    assert capsule("push", "-q", name).stdout == f"{name}:latest\n"

    pulled = capsule("pull", name, cache="other")
    assert pulled.returncode == 0, pulled.stderr
    blob = re.search(r"^([0-9a-f]{12}): Pulling fs layer$", pulled.stdout, re.MULTILINE)[1]
    assert pulled.stdout.splitlines() == [
        "Using default tag: latest",
        "latest: Pulling from greeting",
        f"{blob}: Pulling fs layer",
        f"{blob}: Download complete",
        f"{blob}: Pull complete",
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}:latest",
        f"{name}:latest",
    ]
    (inspected,) = json.loads(capsule("inspect", name, cache="other").stdout)
    assert inspected["RepoDigests"] == [f"{name}@{digest}"]
    listed = capsule("images", "--digests", "--no-trunc", name, cache="other").stdout.splitlines()[1].split()
    assert listed[:4] == [name, "latest", digest, inspected["Id"]]
    assert f"Status: Image is up to date for {name}:latest" in capsule("pull", name, cache="other").stdout
    assert capsule("pull", "-q", f"{name}@{digest}", cache="other").stdout == f"{name}@{digest}\n"


def test_run_pulls_and_keeps_its_own_output_clean(docker_registry, capsule):
    name = f"{docker_registry.host}/greeting:1"
    capsule("tag", "hello-world", name)
    capsule("push", name)
    never = capsule("run", "--pull=never", name, cache="other")
    assert (never.returncode, never.stdout) == (125, "")
    ran = capsule("run", "--rm", name, cache="other")
    assert ran.returncode == 0
    assert ran.stdout == capsule("run", "hello-world").stdout
    assert f"Status: Downloaded newer image for {name}" in ran.stderr
    assert capsule("run", "--rm", name, cache="other").stderr == ""


def test_what_is_not_there_is_one_error(docker_registry, capsule):
    name = f"{docker_registry.host}/missing"
    for words in (["pull", name], ["run", name]):
        said = capsule(*words)
        assert said.returncode in (1, 125)
        assert f"pull of {name}:latest: registry {docker_registry.host}: it answered 404" in said.stderr
        assert "Traceback" not in said.stderr
    for command in ("push", "history", "inspect", "rmi"):
        said = capsule(command, name)
        assert said.returncode == 1
        assert f"no image '{name}' in the store" in said.stderr
        assert "registry 127" not in said.stderr


def test_a_build_shares_its_cache(docker_registry, capsule, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    place = f"type=registry,ref={docker_registry.host}/cache"
    assert "exporting cache" in capsule("build", "--cache-to", place, str(tmp_path)).stderr
    built = capsule("build", "--progress=plain", "--cache-from", place, str(tmp_path), cache="other")
    assert "CACHED" in built.stderr, built.stderr
    missing = capsule("build", "--cache-from", f"{place}-not", str(tmp_path), cache="third")
    assert missing.returncode == 0
    assert "404" in missing.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """What is on a terminal after ``text``: cursor up and down, and erasing of a line."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[\d+[ABK]|\n|\r|[^\x1b\n\r]+", text):
        if move := re.fullmatch(r"\x1b\[(\d+)([AB])", piece):
            row += int(move[1]) * (1 if move[2] == "B" else -1)
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece != "\r":
            lines[row] = piece
    return lines


def test_a_line_for_each_layer_drawn_anew():
    terminal = Terminal()
    show = TransferProgress(terminal)
    show(TransferEvent("1: Pulling from app"))
    show(TransferEvent("Pulling fs layer", "aaaaaaaaaaaa"))
    show(TransferEvent("Pulling fs layer", "bbbbbbbbbbbb"))
    show(TransferEvent("Downloading", "aaaaaaaaaaaa", 1_000_000, 4_000_000))
    show(TransferEvent("Download complete", "bbbbbbbbbbbb"))
    assert screen(terminal.getvalue()) == [
        "1: Pulling from app",
        f"aaaaaaaaaaaa: Downloading [{'=' * 12}>{' ' * 37}] 1MB/4MB",
        "bbbbbbbbbbbb: Download complete",
        "",
    ]
    show(TransferEvent("Downloading", "aaaaaaaaaaaa", 4_000_000, 4_000_000))
    show(TransferEvent("Digest: sha256:1"))
    show(TransferEvent("Pull complete", "aaaaaaaaaaaa"))
    assert screen(terminal.getvalue()) == [
        "1: Pulling from app",
        "aaaaaaaaaaaa: Pull complete",
        "bbbbbbbbbbbb: Download complete",
        "Digest: sha256:1",
        "",
    ]
