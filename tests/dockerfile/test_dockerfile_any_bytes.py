"""Whatever the bytes are: a Dockerfile or a DockerfileError, in time that grows with their length only."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capsule.dockerfile import Expander, parse, parse_tree
from pytest_capsule.dockerfile.lint import lint
from pytest_capsule.errors import DockerfileError

PIECES = [
    "FROM", "a", "AS", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "ONBUILD", "HEALTHCHECK", "CMD", "NONE", "EXPOSE",
    "VOLUME", "SHELL", "STOPSIGNAL", "USER", "WORKDIR", "MAINTAINER", "--mount=", "--from=", "--", "--x", "--link",
    "type=", "cache,", "=", "$", "${", "}", ":-", "#", "%", "/", "*", "?", "'", '"', "\\", "`", "<<", "-", "EOF",
    "[", "]", ",", "\\u00e9", "1", "80-90", " ", " ", " ", "\t", "\n", "\n", "\n", "\r\n", "# escape=`\n", "\ufeff",
    "\x00", "\x85", "\u3000", "é", "\x1c",
]  # fmt: skip


def read(source):
    """Parse, dump, check and expand ``source``; every refusal has a line and the text of that line."""
    with contextlib.suppress(DockerfileError):  # of options in a check directive
        lint(source)
    try:
        parse_tree(source).dump()
        dockerfile = parse(source)
        for stage in dockerfile.stages:
            for instruction in (stage.from_, *stage.instructions):
                expanded = instruction.expand(Expander({"a": "b*c"}, escape=dockerfile.escape))
                assert type(expanded) is type(instruction)
    except DockerfileError as refusal:
        text = source.decode("utf-8", "surrogateescape") if isinstance(source, bytes) else source
        line = text.removeprefix("\ufeff").split("\n")[refusal.line - 1]
        assert refusal.text == line.rstrip("\r\n")


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes(source):
    read(source)


@settings(deadline=None, database=None, max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_anything_that_looks_like_a_dockerfile(source):
    read(source)
    read("FROM a\n" + source)


KEYWORDS = [
    "FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "ONBUILD RUN", "ONBUILD COPY", "HEALTHCHECK CMD",
    "HEALTHCHECK", "CMD", "ENTRYPOINT", "EXPOSE", "VOLUME", "SHELL", "STOPSIGNAL", "USER", "WORKDIR", "MAINTAINER",
]  # fmt: skip
ARGUMENTS = [
    *PIECES, "--chown=", "--chmod=", "--parents", "--exclude=", "--checksum=", "--keep-git-dir=", "--unpack=",
    "--platform=", "--network=", "--security=", "--device=", "--interval=", "--retries=", "--mount=type=", "bind,",
    "secret,", "ssh,", "tmpfs,", "id=", "source=", "target=/", "size=", "mode=", "sharing=", "env=", "required",
    "sha256:", "https://a.b/c.git", "git@a.b:c", "?ref=", "SIGTERM", "RTMIN+", "x:y", "/tcp", "30s", "0755", "u+x,",
    "<<EOF\nx$a\nEOF\n", "<<-'EOF' a\n\tx\nEOF\n", '["a", "b"]', "['a']", "${a", "%%*", "//b/",
]  # fmt: skip


@settings(deadline=None, database=None, max_examples=2000)
@given(st.sampled_from(KEYWORDS), st.lists(st.sampled_from(ARGUMENTS), max_size=8), st.sampled_from(["", " "]))
def test_any_arguments_of_an_instruction(keyword, pieces, between):
    read(f"FROM a AS b\n{keyword} {between.join(pieces)}")


LONG = 20_000


@pytest.mark.parametrize(
    "text",
    [
        "--a " * LONG,
        "--a=" + "\\ " * LONG,
        "'" * LONG,
        "a='" * LONG,
        "a=" * LONG,
        "[" * LONG,
        "[" * LONG + "]" * LONG,
        '["' + "\\" * LONG,
        '["a"' + ',"a"' * LONG + "]",
        "${a:-" * LONG,
        "${a//" * LONG,
        "$" * LONG,
        "<<a " * LONG,
        "<" * LONG,
        "\\" * LONG,
        "ONBUILD " * LONG,
        "--mount=" + ",a" * LONG,
        "--mount=" + '"' * LONG,
        "--interval=" + "1h" * LONG + " CMD x",
        "--interval=" + "9" * LONG + " CMD x",
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.parametrize("instruction", ["RUN", "COPY", "ENV", "ARG", "LABEL", "FROM", "HEALTHCHECK", "ONBUILD RUN"])
def test_long_lines(instruction, text):
    pieces = [text[at : at + 50_000] for at in range(0, len(text), 50_000)]
    read(f"FROM a\n{instruction} " + "\\\n".join(pieces))


def test_many_lines():
    read("FROM a\n" + "RUN x \\\n" * LONG)
    read("# c\n" * LONG + "FROM a\n" + "RUN <<E\n" + "x\n" * LONG)
    read("#" + " " * LONG + "escape=" + " " * LONG + "x" + " " * LONG + "\nFROM a")
