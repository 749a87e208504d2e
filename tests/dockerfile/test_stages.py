from __future__ import annotations

import pytest

from pytest_capsule.dockerfile import Arg, Copy, Run, parse, parse_trigger
from pytest_capsule.errors import DockerfileError

TWO = """\
ARG version=3
# build makes the program
FROM golang:$version AS Build
RUN make

FROM scratch
COPY --from=BUILD /out /
"""


def test_stages_and_global_arguments():
    dockerfile = parse(TWO)
    assert [arg.declarations[0].name for arg in dockerfile.meta_args] == ["version"]
    build, last = dockerfile.stages
    assert (build.index, build.name, build.line, build.comment) == (0, "build", 3, "makes the program")
    assert (last.index, last.name, last.line, last.comment) == (1, None, 6, "")
    assert [type(instruction) for instruction in build.instructions] == [Run]
    assert last.instructions == (Copy(sources=("/out",), dest="/", from_="BUILD"),)


def test_the_comment_of_an_argument():
    (arg,) = parse("# a is one\n# b is two\nARG a b c\nFROM x").meta_args
    assert [one.comment for one in arg.declarations] == ["is one", "is two", ""]


def test_an_argument_after_from_belongs_to_the_stage():
    assert isinstance(parse("FROM a\nARG b").stages[0].instructions[0], Arg)


def test_copy_finds_stages_by_number_and_by_name_in_any_case():
    dockerfile = parse("FROM a AS x\nFROM b AS y\nFROM c AS x\n")
    assert dockerfile.find_stage("0").line == 1
    assert dockerfile.find_stage("X").line == 3
    assert dockerfile.find_stage("alpine") is None
    with pytest.raises(DockerfileError, match="invalid stage index 3"):
        dockerfile.find_stage("3")


def test_from_finds_only_earlier_stages_by_their_exact_name():
    dockerfile = parse("FROM a AS x\nFROM x AS y\nFROM x AS x\nFROM X\n")
    x, y, again, last = dockerfile.stages
    assert dockerfile.base_stage(x, "x") is None
    assert dockerfile.base_stage(y, "x") is x
    assert dockerfile.base_stage(again, "x") is x
    assert dockerfile.base_stage(last, "x") is again
    assert dockerfile.base_stage(last, "X") is None


def test_the_target():
    dockerfile = parse(TWO)
    assert dockerfile.target().index == 1
    assert dockerfile.target("BUILD").index == 0
    with pytest.raises(DockerfileError) as refused:
        dockerfile.target("biuld")
    assert "did you mean build?" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("RUN x\nFROM a", 1, "no build stage in current context"),
        ("ARG a\n\nARG b\n", 3, "dockerfile contains no stages to build"),
        ("FROM a\nRUN x\nFROM", 3, "FROM requires either one or three arguments"),
    ],
)
def test_a_file_that_makes_no_stages(text, line, reason):
    with pytest.raises(DockerfileError) as refused:
        parse(text, path="app.Dockerfile")
    assert (refused.value.path, refused.value.line, refused.value.reason) == ("app.Dockerfile", line, reason)
    assert refused.value.text == text.split("\n")[line - 1]


def test_an_error_reads_well():
    with pytest.raises(DockerfileError) as refused:
        parse("FROM alpine\n  CPOY a b\n")
    assert str(refused.value) == (
        "Dockerfile:2: unknown instruction: CPOY\n  2 |   CPOY a b\n  hint: did you mean COPY?"
    )


def test_a_trigger_is_read_when_it_wakes():
    from_ = parse("\n\nFROM base").stages[0].from_
    trigger = parse_trigger("RUN <<EOF\nmake\nEOF", from_.origin)
    assert trigger.argv(["sh", "-c"]) == ("sh", "-c", "make\n")
    assert (trigger.line, trigger.source) == (3, "RUN <<EOF")


@pytest.mark.parametrize("expression", ["FOO bar", "FROM x", "RUN a\nRUN b", "", "ENV x", "COPY a"])
def test_a_bad_trigger_is_an_error_of_the_from_that_woke_it(expression):
    from_ = parse("\nFROM base").stages[0].from_
    with pytest.raises(DockerfileError) as refused:
        parse_trigger(expression, from_.origin)
    assert (refused.value.line, refused.value.text) == (2, "FROM base")
