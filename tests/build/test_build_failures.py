"""What goes wrong, and what is said about it: one error with the place, the reason, and what to do."""

import contextlib
import os
import subprocess

import pytest

from pytest_capsule import Engine
from pytest_capsule.build.failure import Remains
from pytest_capsule.build.request import request
from pytest_capsule.errors import BuildError, CapsuleError, DockerfileError, StoreError, UsageError


def test_a_failed_run_gives_the_last_good_image(project):
    with pytest.raises(BuildError) as caught:
        project.build(
            "FROM capsule/host\nENV KEPT=yes\nRUN echo good > /good\n\n"
            "RUN echo first; \\\n  echo second >&2; rm /good; exit 3\nRUN never\n"
        )
    error = caught.value
    assert (error.line, error.exit_code) == (5, 3)
    assert error.path.endswith("Dockerfile")
    assert error.step.startswith("RUN echo first;")
    assert error.output == "first\nsecond\n"
    assert f"{error.path}:5" in str(error)
    assert "  | first\n  | second" in str(error)
    assert f"capsule run -it --rm {error.image} /bin/sh" in error.hint
    assert project.kinds() == ["done", "failed"]
    with project.engine.run(error.image, command=["sh", "-c", "cat /good; echo $KEPT"]) as container:
        assert container.wait(timeout=30) == 0
        assert container.logs() == "good\nyes\n"


def test_a_failed_run_gives_the_state_that_it_left(project):
    text = "FROM capsule/host\nARG WHO=me\nRUN echo good > /good\nWORKDIR /w\nRUN echo half > half; exit 3\n"
    with pytest.raises(BuildError) as caught:
        project.build(text)
    error = caught.value
    assert f"capsule run -it --rm {error.failed_state} /bin/sh" in error.hint
    looks = "cat half; cat /good; echo $WHO; pwd"
    with project.engine.run(error.failed_state, command=["sh", "-c", looks]) as container:
        assert container.wait(timeout=30) == 0
        assert container.logs() == "half\ngood\nme\n/w\n"
    with project.files(error.image) as container:
        assert not container.exists("/w/half")
    tags = {tag: image.short_id for image in project.engine.images() for tag in image.tags}
    names = Remains.of(request(project.root))
    assert (tags[names.before], tags[names.after]) == (error.image, error.failed_state)
    assert names.before in str(error)


def test_a_failure_that_wrote_nothing_leaves_no_state_and_a_success_takes_the_names_back(project):
    for text, names in (
        ("RUN echo x > /x; false", {"before", "after"}),
        ("RUN false", {"before"}),
        ("COPY missing /", {"before"}),
        ("RUN true", set()),
    ):
        with contextlib.suppress(BuildError, DockerfileError):
            project.build(f"FROM capsule/host\n{text}\n")
        remains = Remains.of(request(project.root))
        tags = {tag for image in project.engine.images() for tag in image.tags}
        assert {name.rpartition(":")[2] for name in (remains.before, remains.after) if name in tags} == names


def test_a_failure_is_not_cached(project):
    project.write("Dockerfile", "FROM capsule/host\nRUN echo try; false\n")
    for _ in range(2):
        with pytest.raises(BuildError):
            project.build()
        assert project.output() == "try\n"


def test_a_signal_is_told_as_the_shell_tells_it(project):
    with pytest.raises(BuildError) as caught:
        project.build("FROM capsule/host\nRUN kill -KILL $$\n")
    assert caught.value.exit_code == 137


@pytest.mark.parametrize("base", ["capsule/host", "hello-world", "scratch"])
def test_a_command_that_the_image_does_not_have(project, base):
    with pytest.raises(BuildError, match="exit code 127") as caught:
        project.build(f'FROM {base}\nRUN ["no-such-program"]\n')
    assert caught.value.exit_code == 127
    assert "no-such-program" in caught.value.output


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("FROM capsule/host\nRUN [\"echo\", 'a']\n", "it is no valid JSON"),
        ("FROM scratch\nRUN echo hello\n", "in scratch there is nothing that could run"),
    ],
)
def test_what_may_be_wrong_where_nothing_was_found_to_run(project, text, hint):
    with pytest.raises(BuildError) as caught:
        project.build(text)
    assert caught.value.exit_code == 127
    assert hint in caught.value.hint
    assert ("capsule run" in caught.value.hint) == ("scratch" not in text)


@pytest.mark.parametrize("use", ["FROM bulid", "FROM scratch\nCOPY --from=bulid /a /"])
def test_a_stage_that_is_spelt_nearly_so(project, monkeypatch, use):
    monkeypatch.setattr(project.engine, "when_to_pull", "never")
    with pytest.raises(DockerfileError, match="no image 'bulid'") as caught:
        project.build(f"FROM scratch AS build\n{use}\n")
    assert caught.value.hint.startswith("did you mean build, a stage of this Dockerfile? Else ")


@pytest.mark.parametrize("progress", [None, lambda event: None])
@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ("error=true", "lint violation found for rules: MaintainerDeprecated"),
        ("eror=true", 'invalid check option "eror"'),
    ],
)
def test_checks_end_a_build_whether_or_not_somebody_listens(project, progress, check, reason):
    project.write("Dockerfile", f"# check={check}\nFROM scratch\nMAINTAINER me\n")
    with pytest.raises(DockerfileError, match=reason):
        project.engine.build(project.root, progress=progress)


def test_a_program_that_cannot_be_executed(project):
    project.write("data", "no program\n")
    with pytest.raises(BuildError) as caught:
        project.build('FROM capsule/host\nCOPY data /data\nRUN ["/data"]\n')
    assert caught.value.exit_code == 126


@pytest.mark.parametrize(
    ("copy", "reason", "hint"),
    [
        ("COPY missing /", "missing: not found in the build context", None),
        ("COPY THERE /", "THERE: not found in the build context", "did you mean there?"),
        ("COPY dir/missing /", "dir/missing: not found in the build context", None),
        ("COPY dir/fil /", "dir/fil: not found in the build context", "did you mean dir/file?"),
        ("COPY dri/file /", "dri/file: not found in the build context", "did you mean dir?"),
        ("COPY secret.tx /", "secret.tx: not found in the build context", None),
        ("COPY no/such* /", "no/such*: not found in the build context", None),
        ("COPY there/below /", "there/below: not found in the build context", None),
        ("COPY ../outside /", "../outside: not found in the build context", "cannot reach outside"),
        ("COPY /etc/passwd /", "/etc/passwd: not found in the build context", "starts in the build context"),
        ("COPY ignored /", "ignored: excluded by .dockerignore", "change .dockerignore"),
        ("ADD missing.tar /", "missing.tar: not found in the build context", None),
        ("COPY --from=capsule/host /missing /", "/missing: not found in capsule/host", None),
        ("COPY --from=capsule/host /usr/bni /", "/usr/bni: not found in capsule/host", "did you mean usr/bin?"),
    ],
)
def test_a_source_that_is_not_there(project, tmp_path, copy, reason, hint):
    (tmp_path / "outside").write_text("secret")
    project.write("there", "t")
    project.write("dir/file", "f")
    project.write("ignored", "i")
    project.write("secret.txt", "s")
    project.write(".dockerignore", "ignored\nsecret.txt\n")
    with pytest.raises(BuildError) as caught:
        project.build(f"FROM hello-world\nENV KEPT=yes\n{copy}\n")
    error = caught.value
    assert f"{error.path}:3: {copy}: {reason}" in str(error)
    assert (hint or "hint: look around in it") in str(error)
    assert ("did you mean" in str(error)) == ("did you mean" in (hint or ""))
    assert f"capsule run -it --rm {error.image} /bin/sh" in error.hint
    assert "KEPT=yes" in project.engine.image(error.image).config.config.env
    assert project.kinds() == ["failed"]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("FROM scratch\nCOPPY a /\n", 2, "COPPY"),
        ("RUN true\n", 1, "no build stage"),
        ("", 1, "no instructions"),
        ("FROM scratch\nENV\n", 2, "at least one argument"),
        ("FROM scratch\nCMD [\n\nEXPOSE x\n", 4, "x"),
        ("FROM no-such-image\n", 1, "no image 'no-such-image'"),
        ("FROM Not A Name\n", 1, ""),
        ("FROM scratch\nRUN --mount=type=cache,target=/ true\n", 2, "invalid mount target"),
        ("FROM scratch\nCOPY --chmod=8 . /\n", 2, "invalid chmod parameter: '8'"),
        ("FROM scratch\nCOPY --from=no-such-image:1 /a /\n", 2, "no image 'no-such-image:1'"),
        ("FROM scratch\nCOPY [x /\n", 2, "is never closed"),
        ("FROM scratch\nCOPY --chown=me . /\n", 2, "--chown=me with scratch: there are no names"),
        ("FROM scratch\nCOPY --link --chown=me . /\n", 2, "--chown=me with --link: there are no names"),
        ("FROM scratch\nCOPY http://127.0.0.1/x /\n", 2, "the source of COPY can't be a URL"),
        ("FROM scratch\nCOPY git@127.0.0.1:x /\n", 2, "the source of COPY can't be a git reference"),
        ("FROM scratch\nADD --checksum=sha256:1 http://127.0.0.1/x /\n", 2, "--checksum=sha256:1 is no digest"),
        ("FROM scratch\nADD --checksum=sha256:1 . /\n", 2, "checksum requires HTTP(S) or Git sources"),
        ("FROM scratch\nADD http://127.0.0.1/x.git?tagg=1 /\n", 2, "did you mean tag?"),
        ("FROM scratch\nADD http://127.0.0.1/x.git?tag=1&branch=2 /\n", 2, "branch conflicts with tag"),
        ("FROM scratch\nRUN --device=a.org/b=c true\n", 2, "only supported in Dockerfile frontend 1.14.0-labs"),
        ("FROM scratch\nRUN --device=a.org/b=c,d true\n", 2, "invalid field 'd' must be a key=value pair"),
        ("FROM rootfs:/no/such/folder\n", 1, "no such directory or tar"),
    ],
)
def test_a_dockerfile_that_is_wrong(project, text, line, reason):
    with pytest.raises(DockerfileError) as caught:
        project.build(text)
    assert caught.value.line == line
    assert reason in str(caught.value)
    assert "Dockerfile" in str(caught.value)


def test_a_base_that_comes_later_is_hinted_at(project):
    with pytest.raises(DockerfileError, match="FROM takes an earlier one") as caught:
        project.build("FROM b AS a\nFROM scratch AS b\nFROM a\n")
    assert caught.value.line == 1


def test_missing_folders_and_files(project, tmp_path):
    with pytest.raises(UsageError, match=r"no such Dockerfile: .*project/Dockerfile"):
        project.build()
    with pytest.raises(UsageError, match="no such folder"):
        project.engine.build(tmp_path / "missing")
    with pytest.raises(UsageError, match="Other"):
        project.engine.build(project.root, dockerfile="Other")


def test_a_dockerfile_in_small_letters_and_one_that_is_a_symlink(project):
    project.write("dockerfile", "FROM scratch\nLABEL a=small\n")
    assert project.build().config.config.labels == {"a": "small"}
    project.write("Containerfile", "FROM hello-world\nLABEL a=linked\nCOPY . /here/\n")
    project.write("Dockerfile.dockerignore", "*\n!kept\n")
    project.write("kept")
    (project.root / "Dockerfile").symlink_to("Containerfile")
    image = project.build()
    assert image.config.config.labels == {"a": "linked"}
    with project.files(image) as container:
        assert container.listdir("/here") == ["kept"]


def test_a_bad_line_of_dockerignore_is_named(project):
    project.write(".dockerignore", "fine\n[\n")
    with pytest.raises(DockerfileError, match=r"\.dockerignore:2"):
        project.build("FROM scratch\nCOPY . /\n")


def test_a_cache_folder_that_cannot_be_used(tmp_path, identity):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be used") as caught:
        Engine(cache_dir=tmp_path / "file")
    assert "--capsule-cache-dir" in caught.value.hint
    if identity != "root":
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(StoreError, match="Permission denied"):
            Engine(cache_dir=tmp_path / "locked")


@pytest.mark.identities("root")
def test_a_full_disk_fails_the_step_and_breaks_nothing(project, tmp_path):
    """On a small filesystem: a RUN sees it in its own error; a COPY and all else say what could not be written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        with Engine(cache_dir=disk / "cache") as engine:
            project.engine = engine
            project.write("big", os.urandom(12 << 20))
            with pytest.raises(BuildError, match="No space left on device") as caught:
                project.build("FROM capsule/host\nRUN echo fits > /small\nRUN head -c 12M /dev/urandom > /big\n")
            assert caught.value.exit_code == 1
            with pytest.raises(BuildError, match=r"COPY big /big: the disk of the image store .* is full") as caught:
                project.build("FROM capsule/host\nRUN echo fits > /small\nCOPY big /big\n")
            assert caught.value.exit_code is None
            with project.engine.run(caught.value.image, command=["cat", "/small"]) as container:
                assert container.wait(timeout=30) == 0
                assert container.logs() == "fits\n"
            image = project.build("FROM capsule/host\nRUN echo fits > /small\nRUN echo again > /small\n")
            assert project.kinds() == ["cached", "done"]
            assert len(list(disk.glob("cache/*/layers/*"))) == len(image.layers)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_engine_that_is_closed(tmp_path):
    engine = Engine(cache_dir=tmp_path / "cache")
    engine.close()
    with pytest.raises(CapsuleError, match="closed"):
        engine.build(tmp_path)
