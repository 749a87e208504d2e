"""``capsule build``."""

import json
import re
import signal
import subprocess

import pytest

DOCKERFILE = """\
FROM capsule/host AS tools
ARG WORD=nothing
RUN printf 'half '; echo "line $WORD"; echo "$WORD" >/word

FROM tools
COPY file /file
CMD ["cat", "/file"]
"""


@pytest.fixture
def capsule(capsule_here):
    return capsule_here


@pytest.fixture
def context(tmp_path):
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "file").write_text("in the image\n")
    return tmp_path


def test_it_looks_as_with_docker(capsule, context):
    done = capsule("build", "-t", "looks", "--progress=plain", "--build-arg", "WORD=plain", str(context))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(
        r"""#1 \[internal\] load build definition from Dockerfile
#1 DONE \d+\.\ds

#2 \[internal\] load metadata for capsule/host
#2 DONE \d+\.\ds

#3 \[internal\] load \.dockerignore
#3 DONE \d+\.\ds

#4 \[tools 1/2\] FROM capsule/host
#4 CACHED

#5 \[tools 2/2\] RUN printf 'half '; echo "line plain"; echo "plain" >/word
#5 \d+\.\d{3} half line plain
#5 DONE \d+\.\ds

#6 \[stage-1 1/1\] COPY file /file
#6 DONE \d+\.\ds

#7 exporting to image
#7 writing image sha256:[0-9a-f]{64} done
#7 naming to docker.io/library/looks:latest done
#7 DONE \d+\.\ds
""",
        done.stderr,
    )
    again = capsule("build", "-t", "looks", "--build-arg", "WORD=plain", str(context)).stderr
    assert again.count("CACHED\n") == 3
    assert "half line" not in again
    changed = capsule("build", "--build-arg", "WORD=other", str(context)).stderr
    assert '"other" >/word\n#5 not cached: build argument WORD plain → other\n' in changed
    anew = capsule("build", "--no-cache", "--build-arg", "WORD=plain", str(context)).stderr
    assert "half line plain" in anew
    assert capsule("run", "looks").stdout == "in the image\n"


def test_names_file_target_and_arguments(capsule, context, monkeypatch, cli_environment):
    (context / "Dockerfile").rename(context / "Other.dockerfile")
    cli_environment["WORD"] = "from our environment"
    words = [
        "-f",
        "Other.dockerfile",
        "--target",
        "tools",
        "--build-arg",
        "WORD",
        "-t",
        "one:1",
        "-t",
        "two:2",
        "-q",
        ".",
    ]
    done = capsule("build", *words, cwd=context)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
    assert done.stderr == ""
    assert capsule("run", "two:2", "cat", "/word").stdout == "from our environment\n"
    assert capsule("images", "-q", "--no-trunc", "one:1").stdout == done.stdout


def test_a_failing_step_says_where_and_how_to_look(capsule, context):
    (context / "Dockerfile").write_text("FROM capsule/host\nRUN echo kept >/kept\nRUN echo oops; exit 7\n")
    done = capsule("build", str(context))
    assert done.returncode == 1
    assert "#6 ERROR: exit code 7\n" in done.stderr
    assert "Dockerfile:3: RUN echo oops; exit 7: exit code 7" in done.stderr
    assert "  | oops" in done.stderr
    shell = re.search(r"capsule run -it --rm (\w+) /bin/sh", done.stderr)
    assert capsule("run", "--rm", shell[1], "cat", "/kept").stdout == "kept\n"


@pytest.mark.parametrize(("where", "shown"), [("shell", "half\n"), ("shell-before", "")])
def test_a_shell_where_it_failed(start_capsule, context, where, shown):
    (context / "Dockerfile").write_text(
        'FROM capsule/host\nENTRYPOINT ["false"]\nENV A=b\nRUN echo half >/half; exit 7\n'
    )
    process = start_capsule("build", f"--on-error={where}", str(context), stdin=subprocess.PIPE)
    output, errors = process.communicate(b"cat /half; echo $A; exit 5\n", timeout=60)
    assert process.returncode == 1
    assert output.decode() == f"{shown}b\n"
    assert b"Dockerfile:4: RUN echo half >/half; exit 7: exit code 7" in errors


def test_no_shell_where_it_works(capsule, context):
    assert capsule("build", "--on-error=shell", str(context)).returncode == 0


def test_warnings_of_the_build_checks(capsule, context):
    (context / "Dockerfile").write_text("FROM capsule/host\nCOPY $FILEE file /\nCMD run\n")
    done = capsule("build", str(context))
    assert done.stderr.endswith(
        "\n 2 warnings found:\n"
        " - UndefinedVar: Usage of undefined variable '$FILEE' (line 2)\n"
        " - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to "
        "OS signals (line 3)\n"
    )
    words = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=UndefinedVar;error=true"]
    done = capsule("build", *words, str(context))
    assert done.returncode == 1
    assert "Dockerfile:3: lint violation found for rules: JSONArgsRecommended" in done.stderr


def test_check_builds_nothing(capsule, context):
    done = capsule("build", "--check", str(context))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Check complete, no warnings found.\n", "")
    (context / "Dockerfile").write_text("FROM no-such-image AS Base\n\nRUN exit 1\nBAD\n")
    done = capsule("build", "--check", ".", cwd=context)
    assert done.returncode == 1
    assert done.stdout == (
        "ERROR: Dockerfile:4: unknown instruction: BAD\n  4 | BAD\n  hint: did you mean ADD?\n\n"
        "WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n"
        "Stage name 'Base' should be lowercase\n"
        "Dockerfile:1\n"
        "--------------------\n"
        "   1 | >>> FROM no-such-image AS Base\n"
        "   2 |\n"
        "   3 |     RUN exit 1\n"
        "--------------------\n\n"
        "Check complete, 1 warning has been found!\n"
    )


def test_progress_as_json(capsule, context):
    lines = capsule("build", "--progress=rawjson", str(context)).stderr.splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["name"] == "[internal] load build definition from Dockerfile"
    assert events[-1]["kind"] == "image"
    assert {event["dockerfile"] for event in events} == {str(context / "Dockerfile")}


def test_progress_on_a_terminal_needs_one(capsule, context, cli_environment):
    done = capsule("build", "--progress=tty", str(context))
    assert (done.returncode, "stderr is no terminal" in done.stderr) == (1, True)
    cli_environment["BUILDKIT_PROGRESS"] = "quiet"
    assert capsule("build", str(context)).stderr == ""
    cli_environment["BUILDKIT_PROGRESS"] = "fancy"
    assert "BUILDKIT_PROGRESS=fancy" in capsule("build", str(context)).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-folder"], "no such folder"),
        (["-f", "Missing", "."], "no such Dockerfile"),
        (["-t", "Not A Name", "."], "Not A Name"),
        (["--target", "nowhere", "."], "nowhere"),
        (["--secret", "id=key,src=/no/such/file", "."], "/no/such/file"),
        (["--secret", "src=file", "."], "write it id=ID"),
        (["--build-arg", "=1", "."], "write it NAME=VALUE"),
    ],
)
def test_mistakes(capsule, context, words, message):
    done = capsule("build", *words, cwd=context)
    assert done.returncode == 1
    assert message in done.stderr.rpartition("capsule: ")[2]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_and_nothing_is_left(start_capsule, context, cli_cache, number):
    (context / "Dockerfile").write_text(f"FROM capsule/host\nRUN echo begun {number}; sleep 1000\n")
    process = start_capsule("build", str(context))
    shown = b""
    while f" begun {number}\n".encode() not in shown.partition(b"\n#5 ")[2]:
        line = process.stderr.readline()
        assert line, shown
        shown += line
    process.send_signal(number)
    output, errors = process.communicate()
    assert process.returncode == 128 + number
    assert (output, errors) == (b"", b"")
    assert [path.name for path in cli_cache.glob("*/tmp/*")] == []


def test_labels(capsule, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    done = capsule("build", "-t", "labelled", "--label", "a=b=c", "--label", "empty", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(capsule("inspect", "labelled").stdout)[0]["Config"]["Labels"] == {"a": "b=c", "empty": ""}


def test_a_folder_beside_the_context(capsule, tmp_path):
    for folder in ("app", "shared"):
        (tmp_path / folder).mkdir()
    (tmp_path / "shared/name").write_text("shared")
    (tmp_path / "app/Dockerfile").write_text("FROM scratch\nCOPY --from=shared name /\n")
    done = capsule("build", "-t", "beside", "--build-context", f"shared={tmp_path}/shared", str(tmp_path / "app"))
    assert done.returncode == 0, done.stderr
    for given, message in (("shared", "it takes NAME=VALUE"), ("shared=/no/such", "no such folder")):
        done = capsule("build", "--build-context", given, str(tmp_path / "app"))
        assert done.returncode != 0
        assert f"{given}: {message}" in done.stderr
