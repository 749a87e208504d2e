"""Named contexts: a folder or another image in the place of a stage or an image."""

import pytest

from pytest_capsule.errors import BuildError, DockerfileError, UsageError


@pytest.fixture
def shared(tmp_path):
    """A folder beside the build's context."""
    folder = tmp_path / "shared"
    (folder / "deep").mkdir(parents=True)
    (folder / "name").write_text("shared")
    (folder / "deep/other").write_text("other")
    (folder / "secret").write_text("not for images")
    (folder / ".dockerignore").write_text("secret\n")
    return folder


def test_copy_takes_files_of_a_folder(project, shared):
    text = "FROM scratch\nCOPY --from=shared name deep/* /there/\nCOPY own /\n"
    project.write("own", "own")
    image = project.build(text, build_contexts={"shared": shared})
    with project.files(image) as container:
        assert container.read_text("/there/name") == "shared"
        assert container.read_text("/there/other") == "other"
        assert container.read_text("/own") == "own"


def test_a_step_is_done_again_when_what_it_takes_has_changed_and_only_then(project, shared, tmp_path):
    text = "FROM scratch\nCOPY --from=shared name /\n"
    project.build(text, build_contexts={"shared": shared})
    (shared / "deep/other").write_text("changed, and not taken")
    shared.rename(tmp_path / "moved")
    project.build(text, build_contexts={"shared": tmp_path / "moved"})
    assert project.kinds() == ["cached"]
    (tmp_path / "moved/name").write_text("changed")
    with project.files(project.build(text, build_contexts={"shared": tmp_path / "moved"})) as container:
        assert container.read_text("/name") == "changed"


def test_the_folder_has_a_dockerignore_of_its_own(project, shared):
    with pytest.raises(BuildError, match=r"secret: excluded by \.dockerignore"):
        project.build("FROM scratch\nCOPY --from=shared secret /\n", build_contexts={"shared": shared})
    with pytest.raises(BuildError, match=r"nmae: not found in shared(.|\n)*did you mean name"):
        project.build("FROM scratch\nCOPY --from=shared nmae /\n", build_contexts={"shared": shared})


def test_from_a_folder(project, shared):
    """It has the place of an image, as a stage that begins with its files."""
    image = project.build("FROM shared\nENV A=b\n", build_contexts={"shared": shared})
    with project.files(image) as container:
        assert container.read_text("/name") == "shared"
        assert container.read_text("/deep/other") == "other"
        assert not container.exists("/secret")
    assert image.config.config.env_dict()["A"] == "b"


def test_a_mount_shows_a_folder(project, shared):
    text = "FROM capsule/host\nRUN --mount=from=shared,source=deep,target=/m cp /m/other /kept\n"
    with project.files(project.build(text, build_contexts={"shared": shared})) as container:
        assert container.read_text("/kept") == "other"


@pytest.mark.parametrize("name", ["alpine", "alpine:latest", "docker.io/library/alpine"])
def test_another_image_has_the_place_of_one(project, name):
    """By whichever form of its name, as BuildKit does."""
    project.build("FROM scratch\nENV V=mine\n", tag="mine:1")
    for base in ("alpine", "alpine:latest", "docker.io/library/alpine:latest"):
        image = project.build(f"FROM {base}\nLABEL a=b\n", build_contexts={name: "docker-image://mine:1"})
        assert image.config.config.env_dict()["V"] == "mine"


def test_a_tag_tells_images_apart(project):
    with pytest.raises(DockerfileError, match="alpine:3"):
        project.build("FROM alpine:3\n", build_contexts={"alpine": "docker-image://scratch"})


def test_a_context_has_the_place_of_a_whole_stage(project, shared):
    """What the stage would do is not done."""
    text = (
        "FROM no-such-image AS base\nRUN false\n"
        "FROM scratch\nCOPY --from=base name /named\nCOPY --from=0 name /numbered\n"
    )
    with project.files(project.build(text, build_contexts={"base": shared})) as container:
        assert container.read_text("/named") == container.read_text("/numbered") == "shared"
    project.build("FROM scratch\nENV V=other\n", tag="other:1")
    text = "FROM no-such-image AS base\nRUN false\nFROM base\nENV A=b\n"
    image = project.build(text, build_contexts={"base": "docker-image://other:1"})
    assert image.config.config.env_dict()["V"] == "other"


def test_files_of_another_image(project, shared):
    project.build("FROM scratch\nCOPY --from=shared name /\n", tag="files:1", build_contexts={"shared": shared})
    text = "FROM scratch\nCOPY --from=assets name /\n"
    with project.files(project.build(text, build_contexts={"assets": "docker-image://files:1"})) as container:
        assert container.read_text("/name") == "shared"


def test_an_oci_layout(project, tmp_path):
    image = project.build("FROM scratch\nENV V=layout\n", tag="layout:1")
    project.engine.save([image], tmp_path / "layout", format="oci-dir")
    image = project.build("FROM base\nLABEL a=b\n", build_contexts={"base": f"oci-layout://{tmp_path}/layout"})
    assert image.config.config.env_dict()["V"] == "layout"


def test_scratch_in_the_place_of_an_image(project):
    image = project.build("FROM alpine\nENV A=b\n", build_contexts={"alpine": "docker-image://scratch"})
    assert image.layers == ()


def test_a_name_that_nothing_asks_for_is_no_error(project, shared):
    project.build("FROM scratch\n", build_contexts={"unused": shared})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shared", "/no/such", "build context shared=/no/such: no such folder"),
        ("Shared", "/", "build context 'Shared': "),
        (
            "shared",
            "https://example.invalid/x.git",
            "build context shared=https://example.invalid/x.git: nothing is fetched",
        ),
    ],
)
def test_a_wrong_one_is_named(project, name, value, message):
    with pytest.raises(UsageError, match=message):
        project.build("FROM scratch\n", build_contexts={name: value})
