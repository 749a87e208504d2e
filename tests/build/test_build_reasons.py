"""Why a step was not taken from the cache: its event says which of its inputs has changed."""

import shutil
from pathlib import Path

import pytest

from pytest_capsule import Engine

pytestmark = pytest.mark.usefixtures("steady_host")

DOCKERFILE = """\
FROM capsule/host
ARG VERSION=1
ENV MODE=test
WORKDIR /app
COPY src /app
RUN echo $VERSION > /version
RUN true
"""


@pytest.fixture
def app(project):
    project.write("src/main.py", str(project.root))
    project.write("src/deep/other.py", "o")
    project.build(DOCKERFILE)
    assert set(reasons(project).values()) == {""}, "nothing has changed where nothing was before"
    return project


def reasons(project):
    """The reason of each step that ran, by its keyword and line."""
    started = [event for event in project.events if event.kind == "start" and event.step]
    return {event.line: event.text for event in started}


PARENT = "the step before it has changed"


def test_what_is_cached_has_no_reason(app):
    app.build()
    assert reasons(app) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda src: (src / "main.py").write_text("changed"), "src/main.py changed"),
        (lambda src: (src / "deep/other.py").chmod(0o700), "src/deep/other.py changed"),
        (lambda src: (src / "new").touch(), "src/new added"),
        (lambda src: (src / "main.py").unlink(), "src/main.py removed"),
        (
            lambda src: [(src / f"n{number}").touch() for number in range(5)],
            "src/n0 added, src/n1 added, src/n2 added, and 2 more",
        ),
    ],
    ids="changed mode added removed many".split(),
)
def test_files(app, change, reason):
    change(app.root / "src")
    app.build()
    assert reasons(app) == {5: reason, 6: PARENT, 7: PARENT}
    app.build()
    assert reasons(app) == {}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("ARG VERSION=1", "ARG VERSION=2", {6: "build argument VERSION 1 → 2", 7: PARENT}),
        ("ENV MODE=test", "ENV MODE=prod", {6: "variable MODE test → prod", 7: PARENT}),
        ("ENV MODE=test", "ENV MODE=test MORE=x", {6: "variable MORE (none) → x", 7: PARENT}),
        ("RUN true", "RUN false || true", {7: "the command has changed, it was RUN true"}),
        ("RUN true", "RUN --network=none true", {7: "--network default → none"}),
        ("RUN true", "WORKDIR /true", {7: "it was RUN true"}),
        ("COPY src /app", "COPY src /lib", {5: "destination /app → /lib", 6: PARENT, 7: PARENT}),
        ("WORKDIR /app", "WORKDIR /lib", {4: "path /app → /lib", 5: PARENT, 6: PARENT, 7: PARENT}),
        ("COPY src", "COPY --chmod=700 src", {5: "mode (none) → 700", 6: PARENT, 7: PARENT}),
    ],
)
def test_instructions(app, old, new, found):
    app.build(DOCKERFILE.replace(old, new))
    assert reasons(app) == found


def test_build_arguments_from_outside(app):
    app.build(build_args={"VERSION": "7"})
    assert reasons(app)[6] == "build argument VERSION 1 → 7"


def test_no_cache(app):
    app.build(no_cache=True)
    assert reasons(app) == dict.fromkeys((4, 5, 6, 7), "--no-cache")


def test_another_base(project):
    project.build("FROM scratch\nENV A=1\n", tag="reasons-base")
    text = "FROM reasons-base\nWORKDIR /reasons-base\nWORKDIR /second\n"
    project.build(text)
    project.build("FROM scratch\nWORKDIR /other\n", tag="reasons-base")
    project.build(text)
    assert reasons(project) == {2: "what its stage is built on has changed", 3: PARENT}


def test_a_layer_that_was_removed(project, tmp_path):
    with Engine(cache_dir=tmp_path / "cache") as engine:
        project.engine = engine
        (layer,) = project.build("FROM scratch\nWORKDIR /removed-layer\n").layers
        shutil.rmtree(Path(layer.path).parent)
        project.build()
    assert reasons(project) == {2: "its layer is not in the store any more"}


def test_a_stage_that_follows_another(project):
    text = "FROM capsule/host AS made\nRUN echo {} > /file\nFROM made\nRUN cat /file\n"
    project.build(text.format(1))
    project.build(text.format(2))
    assert reasons(project) == {
        2: "the command has changed, it was RUN echo 1 > /file",
        4: "what its stage is built on has changed",
    }


def test_another_dockerfile_with_the_same_beginning_is_another_place(project):
    project.build("FROM capsule/host\nRUN echo first file\n")
    project.write("Other", "FROM capsule/host\nRUN echo second file\n")
    project.events = []
    project.engine.build(project.root, dockerfile="Other", progress=project.events.append)
    assert reasons(project) == {2: ""}
