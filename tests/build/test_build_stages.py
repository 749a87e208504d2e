"""FROM in all its forms, stages, and which arguments are seen where."""

import io
import os
import tarfile

import pytest

from pytest_capsule.errors import BuildError, DockerfileError, UsageError


@pytest.fixture
def root_tar(tmp_path):
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("./etc/issue")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"issue"))
    return path


def test_from_a_folder_and_from_a_tar(project, tmp_path, root_tar):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/marker").write_text("here")
    for base, path, content in ((tmp_path / "root", "/marker", "here"), (root_tar, "/etc/issue", "issue")):
        with project.files(project.build(f"FROM rootfs:{base}\nENV X=1\n")) as container:
            assert container.read_text(path) == content
    assert sorted(os.listdir(tmp_path / "root")) == ["marker"], "the folder is not written to"


def test_from_a_tagged_image_by_its_forms(project):
    first = project.build("FROM scratch\nENV V=1\n", tag="forms:one")
    project.build("FROM scratch\nENV V=2\n", tag="forms")
    for reference, value in (
        ("forms:one", "1"),
        ("forms", "2"),
        ("docker.io/library/forms:one", "1"),
        (first.short_id, "1"),
    ):
        assert project.build(f"FROM {reference}\nLABEL a=b\n").config.config.env_dict()["V"] == value


def test_hello_world_can_be_built_upon(project):
    image = project.build("FROM hello-world\nENV X=1\n")
    with project.engine.run(image) as container:
        assert container.wait(timeout=30) == 0
        assert "Hello from" in container.logs()


def test_from_alone_gives_the_base(project):
    image = project.build("FROM scratch\n")
    assert (image.layers, image.config.history) == ((), ())


def test_arguments_before_from_name_the_base(project):
    project.build("FROM scratch\nENV V=named\n", tag="by-argument:3")
    text = "ARG NAME=by-argument\nARG TAG=2\nFROM ${NAME}:${TAG}\nARG TAG\nARG NAME=inner\nENV SEEN=$TAG-$NAME\n"
    with pytest.raises(DockerfileError, match="by-argument:2") as caught:
        project.build(text)
    assert caught.value.line == 3
    image = project.build(text, build_args={"TAG": "3"})
    assert image.config.config.env_dict()["SEEN"] == "3-inner"


def test_an_argument_ends_with_its_stage_and_goes_on_in_its_children(project):
    image = project.build(
        "ARG GLOBAL=g\n"
        "FROM scratch AS first\nARG A=one\nENV FIRST=$A$GLOBAL\n"
        "FROM first AS child\nENV CHILD=$A\n"
        "FROM scratch AS other\nENV OTHER=x$A\n"
        "FROM child\nCOPY --from=other / /\n"
    )
    env = image.config.config.env_dict()
    assert (env["FIRST"], env["CHILD"]) == ("one", "one")
    other = project.build(target="other").config.config.env_dict()
    assert other["OTHER"] == "x"


def test_of_env_and_arg_the_later_wins_for_a_run(project):
    image = project.build("FROM capsule/host\nENV X=env\nARG X=arg\nRUN echo $X\nARG Y=arg\nENV Y=env\nRUN echo $Y\n")
    assert project.output() == "arg\nenv\n"
    assert image.config.config.env_dict()["X"] == "env", "an argument is never in the image"


def test_platform_arguments(project):
    image = project.build(
        "FROM scratch\nARG TARGETOS\nARG TARGETARCH\nARG BUILDPLATFORM\n"
        "LABEL o=$TARGETOS a=$TARGETARCH p=$BUILDPLATFORM\n"
    )
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    assert image.config.config.labels == {"o": "linux", "a": machine, "p": f"linux/{machine}"}


def test_a_build_argument_goes_before_what_is_predefined(project):
    text = (
        "FROM scratch AS for-linux\nFROM scratch AS for-plan9\nLABEL stage=plan9\n"
        "FROM for-${TARGETOS}\nARG TARGETOS\nLABEL os=$TARGETOS\n"
    )
    image = project.build(text, build_args={"TARGETOS": "plan9"})
    assert image.config.config.labels == {"stage": "plan9", "os": "plan9"}
    assert project.build().config.config.labels == {"os": "linux"}


def test_an_image_for_another_platform(project):
    """BuildKit's rules: TARGET* tell of the build, FROM --platform of its stage, and a stage begins as its base is."""
    text = (
        "FROM --platform=$BUILDPLATFORM capsule/host AS tools\nARG TARGETARCH\nRUN echo for $TARGETARCH > /made\n"
        "FROM scratch\nCOPY --from=tools /made /\nARG TARGETPLATFORM\nLABEL target=$TARGETPLATFORM\n"
    )
    image = project.build(text, platform="linux/arm/v6")
    config = image.config
    assert (config.os, config.architecture, config.variant) == ("linux", "arm", "v6")
    assert config.config.labels == {"target": "linux/arm/v6"}
    with project.files(image) as container:
        assert container.read_text("/made") == "for arm\n"


OTHER = {"x86_64": "arm64", "aarch64": "amd64"}[os.uname().machine]


def test_a_stage_for_another_platform(project):
    image = project.build(f"FROM --platform={OTHER} hello-world\nARG TARGETARCH\nLABEL target=$TARGETARCH\n")
    assert image.config.architecture == OTHER
    assert image.config.config.labels["target"] != OTHER, "the build is for this machine"
    child = project.build(f"FROM --platform={OTHER} scratch AS one\nFROM one\nLABEL a=b\n")
    assert child.config.architecture == OTHER


def test_what_is_not_there_for_a_platform(project):
    with pytest.raises(DockerfileError, match=f"capsule/host is here for .*, not for linux/{OTHER}") as caught:
        project.build(f"FROM scratch\nFROM --platform=linux/{OTHER} capsule/host\n")
    assert caught.value.line == 2
    with pytest.raises(DockerfileError, match="FROM --platform=bogus: 'bogus' is neither") as caught:
        project.build("FROM --platform=bogus capsule/host\n")
    assert caught.value.line == 1
    with pytest.raises(UsageError, match="'linux/a/b/c' is no platform"):
        project.build("FROM scratch\n", platform="linux/a/b/c")
    with pytest.raises(BuildError, match="Exec format error"):
        project.build(f'FROM --platform={OTHER} hello-world\nRUN ["/hello"]\n')


def test_only_the_stages_that_the_target_needs_are_built(project):
    text = (
        "FROM capsule/host AS broken\nRUN exit 1\n"
        "FROM scratch AS wanted\nLABEL is=wanted\n"
        "FROM scratch AS last\nCOPY --from=wanted / /\nLABEL is=last\n"
    )
    assert project.build(text).config.config.labels == {"is": "last"}
    assert project.build(target="WANTED").config.config.labels == {"is": "wanted"}
    assert [event.name for event in project.events if event.step] == []
    with pytest.raises(DockerfileError, match="could not be found"):
        project.build(target="missing")


def names(project):
    return [event.name for event in project.events if event.kind in ("cached", "start")]


def test_steps_are_named_as_in_buildkits_progress(project):
    project.build("FROM scratch AS one\nWORKDIR /a\nFROM one\n" + "".join(f"WORKDIR /{n}\n" for n in range(10)))
    assert names(project)[:4] == [
        "[internal] load build definition from Dockerfile",
        "[internal] load .dockerignore",
        "[one 1/1] WORKDIR /a",
        "[stage-1  1/10] WORKDIR /0",
    ]
    assert names(project)[-1] == "[stage-1 10/10] WORKDIR /9"


def test_the_only_stage_has_no_name_but_beside_an_image_that_it_takes_from(project):
    project.build("ARG BASE=capsule/host\nFROM $BASE\nARG A=1\nworkdir /$A\nRUN : '$A' $HOME $A\nWORKDIR /\n")
    assert names(project)[1:] == [
        "[internal] load metadata for capsule/host",
        "[internal] load .dockerignore",
        "[1/4] FROM capsule/host",
        "[2/4] WORKDIR /1",
        "[3/4] RUN : '$A' $HOME 1",
    ]
    project.build("FROM scratch\nCOPY --from=hello-world / /\n")
    assert names(project)[-1] == "[stage-0 1/1] COPY --from=hello-world / /"


def test_triggers_count_as_steps(project):
    project.build("FROM scratch AS base\nONBUILD ENV A=1\nONBUILD WORKDIR /a\nFROM base\nWORKDIR /b\n")
    assert names(project)[-2:] == ["[stage-1 1/3] ONBUILD WORKDIR /a", "[stage-1 2/3] WORKDIR /b"]


def test_a_heredoc_is_summed_up(project):
    project.build("FROM capsule/host\nRUN <<EOF\n  echo one\n  echo two\nEOF\n")
    assert names(project)[-1] == "[2/2] RUN <<EOF (echo one...)"


def test_a_stage_can_be_taken_from_before_it_is_there_only_by_mistake(project):
    with pytest.raises(DockerfileError, match="not built before") as caught:
        project.build("FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nFROM a\n")
    assert caught.value.line == 2
    with pytest.raises(DockerfileError, match="not built before"):
        project.build("FROM scratch AS a\nCOPY --from=a / /\n")
    with pytest.raises(DockerfileError, match="invalid stage index 7"):
        project.build("FROM scratch\nCOPY --from=7 / /\n")


def test_onbuild_cannot_take_from_the_stage_that_it_wakes_in(project):
    project.build("FROM scratch\nONBUILD COPY --from=me / /\n", tag="takes-from-me")
    with pytest.raises(DockerfileError, match="not built before"):
        project.build("FROM takes-from-me AS me\n")


def test_another_dockerfile_and_its_ignore_file(project):
    project.write("docker/Other.Dockerfile", "FROM scratch\nCOPY . /\n")
    project.write("docker/Other.Dockerfile.dockerignore", "*\n!kept\n")
    project.write(".dockerignore", "kept\n")
    project.write("kept", "k")
    project.write("left", "l")
    (layer,) = project.engine.build(project.root, dockerfile="docker/Other.Dockerfile").layers
    assert sorted(os.listdir(layer.path)) == ["kept"]


def test_dockerignore(project, names_in):
    for name in ("a.log", "b.txt", "keep.log", "dir/c.log", "dir/d.txt", "out/x", "out/deep/kept"):
        project.write(name, name)
    project.write(".dockerignore", "# comment\n**/*.log\n!keep.log\nout\n!out/deep/kept\nDockerfile\n.dockerignore\n")
    (layer,) = project.build("FROM scratch\nCOPY . /\n").layers
    assert names_in(layer) == ["b.txt", "dir", "dir/d.txt", "keep.log", "out", "out/deep", "out/deep/kept"]


def test_the_dockerfile_is_found_beside_the_context_or_by_its_path(project, tmp_path, monkeypatch):
    outside = tmp_path / "elsewhere.Dockerfile"
    outside.write_text("FROM scratch\nLABEL from=outside\n")
    assert project.engine.build(project.root, dockerfile=outside).config.config.labels == {"from": "outside"}
    monkeypatch.chdir(tmp_path)
    assert (
        project.engine.build(project.root, dockerfile="elsewhere.Dockerfile").config.config.labels["from"] == "outside"
    )
    assert project.engine.build(outside).config.config.labels["from"] == "outside", "a file is its folder's Dockerfile"


def test_the_argument_that_names_the_stage(project):
    text = "FROM hello-world AS base\nARG TARGETSTAGE\nLABEL of=$TARGETSTAGE\nFROM base AS one\nFROM base\n"
    assert project.build(text).config.config.labels == {"of": "default"}
    assert project.build(target="one").config.config.labels == {"of": "one"}
    assert project.build(f"{text}FROM base AS last\n").config.config.labels == {"of": "last"}
