"""BuildKit's own cases, which lie beside the project and are skipped where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_capsule.dockerfile import Dialect, expand, parse, parse_tree, process_words
from pytest_capsule.errors import DockerfileError

CASES = Path(__file__).parents[3] / "shared" / "conformance" / "buildkit"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"BuildKit's cases are not at {CASES}")


def folders(name):
    return sorted(CASES.joinpath(name).iterdir()) if CASES.is_dir() else []


@pytest.mark.parametrize("folder", folders("parser"), ids=lambda folder: folder.name)
def test_the_tree_is_buildkits(folder):
    tree = parse_tree((folder / "Dockerfile").read_bytes())
    assert tree.dump() + "\n" == (folder / "result").read_text()


@pytest.mark.parametrize("folder", folders("parser-negative"), ids=lambda folder: folder.name)
def test_what_buildkit_refuses_is_refused_with_its_line(folder):
    source = (folder / "Dockerfile").read_bytes()
    with pytest.raises(DockerfileError) as refusal:
        parse(source, path="its/Dockerfile")
    assert refusal.value.path == "its/Dockerfile"
    assert refusal.value.line >= 1
    if source:
        assert refusal.value.text == source.decode().splitlines()[refusal.value.line - 1]


def lines(name):
    return CASES.joinpath(name).read_text().split("\n") if CASES.is_dir() else []


def word_cases():
    platforms = {"A": [False, True], "U": [False], "W": [True]}
    for line in lines("envVarTest"):
        if line.strip() and not line.startswith("#"):
            platform, text, expected = (part.strip() for part in line.split("|"))
            for on_windows in platforms[platform]:
                yield text, expected, on_windows


@pytest.mark.parametrize(("text", "expected", "on_windows"), list(word_cases()))
def test_a_word_expands_as_in_buildkit(text, expected, on_windows):
    env = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
    dialect = Dialect(fold_case=on_windows)
    if expected == "error":
        with pytest.raises(DockerfileError):
            expand(text, env, dialect)
    else:
        assert expand(text, env, dialect).text == expected


def words_cases():
    env = {}
    for line in lines("wordsTest"):
        if line.startswith("ENV "):
            name, _, value = line.removeprefix("ENV ").lstrip(" ").partition("=")
            env = {**env, name: value}
        elif line and not line.startswith("#"):
            text, expected = line.split("|")
            yield text.strip(), env, expected.lstrip(" ").split(",")


@pytest.mark.parametrize(("text", "env", "expected"), list(words_cases()))
def test_a_text_splits_into_words_as_in_buildkit(text, env, expected):
    if expected == ["error"]:
        with pytest.raises(DockerfileError):
            process_words(text, env)
    else:
        assert process_words(text, env) == expected
