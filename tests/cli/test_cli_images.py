"""``capsule images``, ``history``, ``tag``, ``rmi``, ``inspect``, and what holds for every command."""

import json
import os
import re
import signal

import pytest


@pytest.fixture
def capsule(capsule_here):
    return capsule_here


@pytest.fixture
def image(capsule, tmp_path):
    """``listed:1``, two steps on the built-in image."""
    (tmp_path / "Dockerfile").write_text(
        'FROM hello-world\nLABEL what="a label"\nCOPY file /a/rather/long/path/so/that/the/line/is/cut\n'
    )
    (tmp_path / "file").write_text("x" * 1500)
    built = capsule("build", "-q", "-t", "listed:1", str(tmp_path))
    assert built.returncode == 0, built.stderr
    yield built.stdout.strip()
    capsule("rmi", "-f", built.stdout.strip())


def test_images_in_columns(capsule, image):
    header, *rows = capsule("images", "listed").stdout.splitlines()
    assert re.split(r" {2,}", header) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    (row,) = rows
    assert row.split()[:3] == ["listed", "1", image[7:19]]
    assert re.search(r" seconds? ago +\d(\.\d+)?kB$", row) or "Less than a second ago" in row
    assert header.index("IMAGE ID") == row.index(image[7:19])


def test_image_ids_only(capsule, image):
    assert image[7:19] in capsule("images", "-q").stdout.split()
    assert capsule("images", "-q", "--no-trunc", "listed:1").stdout.split() == [image]
    assert capsule("images", "-q", "listed:2").stdout == ""


def test_images_as_they_are_asked_for(capsule, image):
    template = "table {{.Repository}}\\t{{.ID}}\\t{{.CreatedAt}}"
    header, row = capsule("images", "--format", template, "listed").stdout.splitlines()
    assert re.split(r" {2,}", header) == ["REPOSITORY", "IMAGE ID", "CREATED AT"]
    assert re.fullmatch(rf"listed +{image[7:19]} +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}} \S+", row)
    (line,) = capsule("images", "--format", "json", "listed").stdout.splitlines()
    found = json.loads(line)
    assert (found["Repository"], found["Tag"], found["ID"], found["Digest"]) == ("listed", "1", image[7:19], "<none>")
    assert capsule("images", "-q", "--format", "{{.Tag}}:{{.Size}}", "listed").stdout == "1:2.69kB\n"
    header = capsule("images", "-a", "--digests").stdout.splitlines()[0]
    assert re.split(r" {2,}", header) == ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]


def test_images_are_listed_by_their_age_and_not_by_when_they_came(capsule, image, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM hello-world\nLABEL old=1\n")
    built = capsule("build", "-q", "-t", "older:1", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", str(tmp_path))
    assert built.returncode == 0, built.stderr
    listed = capsule("images", "--format", "{{.Repository}} {{.CreatedAt}}").stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert names.index("listed") < names.index("older")
    assert next(line for line in listed if line.startswith("older")).startswith("older 2001-09-0")
    capsule("rmi", "-f", "older:1")


def test_images_that_filters_let_pass(capsule, image):
    assert capsule("tag", "listed:1", "team/app:1.5").returncode == 0

    def names(*words):
        done = capsule("images", "--format", "{{.Repository}}:{{.Tag}}", *words)
        assert done.returncode == 0, done.stderr
        return {line for line in done.stdout.splitlines() if line.startswith(("listed", "team"))}

    both = {"listed:1", "team/app:1.5"}
    assert names("-f", "label=what") == names("-f", "label=what=a label") == both
    assert names("-f", "label=what=another") == names("-f", "label=what", "-f", "label=no") == set()
    assert names("-f", "dangling=false", "-f", "reference=li*") == names("list??:[1-3]") == {"listed:1"}
    assert names("-f", "reference=*", "-f", "reference=team/*:1.[^0-4]") == both
    assert names("*") == names("docker.io/library/listed") == {"listed:1"}
    assert names("-f", "dangling=true") == names("-f", "since=listed:1") == names("-f", "until=24h") == set()
    assert names("-f", "until=2999-01-01", "-f", "since=hello-world") == both
    assert names("-f", "before=listed:1") == set()
    capsule("rmi", "team/app:1.5")


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ("dangling", "NAME=VALUE"),
        ("dangling=perhaps", "true or false"),
        ("colour=red", "no filter 'colour'"),
        ("reference=[z-a]", "no pattern"),
        ("reference=[a", "no pattern"),
        ("before=not-there", "not-there"),
        ("until=yesterday", "no time"),
        (f"until={9**30}h", "no time"),
    ],
)
def test_a_filter_that_is_none(capsule, image, filter, said):
    done = capsule("images", "-f", filter)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_what_is_built_in_is_listed_by_name(capsule):
    assert capsule("run", "hello-world").returncode == 0
    assert [line.split()[:2] for line in capsule("images", "hello-world").stdout.splitlines()[1:]] == [
        ["hello-world", "latest"]
    ]


def test_history(capsule, image):
    header, top, label, *below = capsule("history", "listed:1").stdout.splitlines()
    assert re.split(r" {2,}", header) == ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]
    assert re.match(rf"{image[7:19]} .* COPY file /a/rather/long/path/so/that/the/li… +1.5kB +buildkit", top)
    assert re.match(r"<missing> .* LABEL what=a label +0B +buildkit", label)
    assert [re.search(r"(COPY|CMD).* (\S+B)", line).groups() for line in below] == [("CMD", "0B"), ("COPY", "1.19kB")]


def test_what_an_image_says_of_itself_drives_no_terminal(capsule, tmp_path):
    (tmp_path / "Dockerfile").write_text('FROM hello-world\nLABEL what="\x1b]0;title\x07\x1b[2J"\n')
    image = capsule("build", "-q", str(tmp_path)).stdout.strip()
    shown = capsule("history", "--no-trunc", image).stdout
    assert "LABEL what= ]0;title  [2J" in shown
    assert "\x1b" not in shown
    capsule("rmi", "-f", image)


def test_history_in_full(capsule, image):
    header, top, *below = capsule("history", "--no-trunc", "-H=false", "listed:1").stdout.splitlines()
    assert re.split(r" {2,}", header) == ["IMAGE", "CREATED AT", "CREATED BY", "SIZE", "COMMENT"]
    assert below[-1].split()[:3] == ["<missing>", "0001-01-01T00:00:00Z", "COPY"], "what is built in has no time"
    assert re.match(
        rf"{image} +\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) +"
        "COPY file /a/rather/long/path/so/that/the/line/is/cut # buildkit +1500 ",
        top,
    )
    assert capsule("history", "-q", "listed:1").stdout.split()[0] == image[7:19]


def test_tag_and_rmi(capsule, image):
    assert capsule("tag", "listed:1", "team/other").returncode == 0
    refused = capsule("rmi", image)
    assert refused.returncode == 1
    assert "listed:1, team/other:latest" in refused.stderr
    assert capsule("rmi", "team/other").stdout == "Untagged: team/other:latest\n"
    assert capsule("rmi", "listed:1").stdout == f"Untagged: listed:1\nDeleted: {image}\n"
    assert capsule("run", "listed:1").returncode == 125


def test_rmi_goes_on_after_one_that_is_not_there(capsule, image):
    done = capsule("rmi", "not-there", "listed:1")
    assert done.returncode == 1
    assert "not-there" in done.stderr
    assert f"Deleted: {image}" in done.stdout


def test_inspect(capsule, image):
    done = capsule("inspect", "listed:1", "not-there")
    assert done.returncode == 1
    assert "not-there" in done.stderr
    (found,) = json.loads(done.stdout)
    assert found["Id"] == image
    assert found["RepoTags"] == ["listed:1"]
    assert found["Config"]["Labels"] == {"what": "a label"}
    assert found["Config"]["Cmd"] == ["/hello"]
    assert found["Size"] == sum(
        os.path.getsize(os.path.join(folder, name))
        for layer in found["GraphDriver"]["Data"]["LowerDirs"]
        for folder, _, names in os.walk(layer)
        for name in names
    )


def test_inspect_and_history_as_they_are_asked_for(capsule, image):
    template = '{{.Id}} {{.Config.Cmd}} {{.Config.Entrypoint}} {{index .Config.Labels "what"}}'
    done = capsule("inspect", "--type", "image", "-f", template, "listed:1", "not-there")
    assert (done.returncode, done.stdout) == (1, f"{image} [/hello] [] a label\n")
    (found,) = json.loads(capsule("inspect", "--format", "json", "listed:1").stdout)
    assert (found["Config"]["Entrypoint"], found["Config"]["User"]) == (None, "")
    top = json.loads(capsule("history", "--format", "json", "listed:1").stdout.splitlines()[0])
    assert (top["ID"], top["Size"], top["Comment"][:8]) == (image[7:19], "1.5kB", "buildkit")
    rows = capsule("history", "--format", "table {{.Size}}\\t{{.Comment}}", "listed:1").stdout.splitlines()
    assert [re.split(" {2,}", row)[0] for row in rows] == ["SIZE", "1.5kB", "0B", "0B", "1.19kB"]
    for command in ("inspect", "history", "images"):
        done = capsule(command, "--format", "{{.No}}", *["listed:1"])
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no field .No" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["history", "not-there"],
        ["tag", "not-there", "x"],
        ["tag", "hello-world", "X y"],
        ["tag", "hello-world", "sha256:abc"],
        ["tag", "hello-world", f"app@sha256:{'a' * 64}"],
        ["pull", "scratch"],
        ["load", "-i", ""],
        ["import", "", "x"],
        ["import", "http://registry.test/x.tar", "x"],
    ],
)
def test_mistakes(capsule, words):
    done = capsule(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("capsule: ")
    assert "Traceback" not in done.stderr


def test_another_cache(capsule, tmp_path, image):
    assert "listed" not in capsule("--cache-dir", str(tmp_path / "cache"), "images").stdout


def test_a_cache_that_cannot_be_used(capsule, tmp_path):
    (tmp_path / "file").write_text("")
    done = capsule("--cache-dir", str(tmp_path / "file"), "images")
    assert done.returncode == 1
    assert "--cache-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version(capsule):
    assert re.match(r"capsule version \d+\.\d+", capsule("--version").stdout)
    everything = capsule("--help").stdout
    assert capsule().stdout == everything
    for command in ("build", "run", "images", "history", "tag", "rmi", "inspect", "check"):
        assert f"    {command} " in everything
        assert f"usage: capsule {command}" in capsule(command, "--help").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fetch", "x"], 1, "'fetch'"),
        (["--nope"], 125, "--nope"),
        (["history"], 1, "IMAGE"),
        (["images", "a", "b"], 1, "unrecognized arguments: b"),
        (["images", "--nope"], 125, "unrecognized arguments: --nope"),
        (["images", "-f"], 125, "-f/--filter"),
        (["history", "-H=perhaps", "x"], 125, "'perhaps' is neither true nor false"),
        (["run"], 1, "IMAGE"),
        (["run", "--memory"], 125, "--memory"),
        (["save", "--format", "zip", "x"], 125, "'zip'"),
    ],
)
def test_words_that_make_no_command_end_as_dockers_client_does(capsule, words, code, said):
    done = capsule(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "--help'" in done.stderr


def test_a_reader_that_has_gone_is_no_traceback(start_capsule):
    reader, writer = os.pipe()
    os.close(reader)
    process = start_capsule("images", stdout=writer)
    os.close(writer)
    assert process.wait() == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
