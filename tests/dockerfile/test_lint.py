"""BuildKit's build checks. The cases are those of its ``dockerfile_lint_test.go``, told anew."""

import pytest

from pytest_capsule.dockerfile.dockerignore import IgnoreRules
from pytest_capsule.dockerfile.lint import BaseImage, lint
from pytest_capsule.dockerfile.rules import DESCRIPTIONS, CheckOptions, LintWarning
from pytest_capsule.errors import DockerfileError

PLATFORMS = {"TARGETPLATFORM": "linux/amd64", "BUILDPLATFORM": "linux/amd64", "TARGETOS": "linux"}
PLAN9 = {"TARGETOS": "plan9"}
ALPINE = {"alpine": BaseImage({"PATH": "/bin"}, platform="linux/amd64")}


def found(text, **options):
    """The warnings as (rule, line), and with what."""
    result = lint(text, platforms=PLATFORMS, **{"bases": ALPINE, **options})
    return [(warning.rule, warning.line, warning.message) for warning in result.warnings]


def rules(text, **options):
    return [(rule, line) for rule, line, _ in found(text, **options)]


def test_what_from_knows_without_an_argument():
    assert rules("FROM alpine AS on-linux\nFROM on-$TARGETOS\n") == []
    assert rules("FROM alpine AS on-linux\nFROM alpine AS on-plan9\nFROM on-$TARGETOS\n", build_args=PLAN9) == []
    assert rules("FROM alpine AS on-default\nFROM on-$TARGETSTAGE\n") == []


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("FROM scratch AS BadName\n", [("StageNameCasing", 1, "Stage name 'BadName' should be lowercase")]),
        ("FROM scratch as base\n", [("FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match")]),
        ("from scratch AS base\n", [("FromAsCasing", 1, "'AS' and 'from' keywords' casing do not match")]),
        ("FROM scratch\nCOPY a \\\n\n.\nCOPY a \\\n.\n", [("NoEmptyContinuation", 4, "Empty continuation line")]),
        (
            "From scratch as base\nFROM scratch AS b\n",
            [
                (
                    "ConsistentInstructionCasing",
                    1,
                    "Command 'From' should match the case of the command majority (uppercase)",
                )
            ],
        ),
        (
            "from scratch\nCOPY a /b\ncopy a /c\n",
            [
                (
                    "ConsistentInstructionCasing",
                    2,
                    "Command 'COPY' should match the case of the command majority (lowercase)",
                )
            ],
        ),
        (
            "FROM scratch AS b\nFROM scratch AS b\n",
            [("DuplicateStageName", 2, 'Duplicate stage name "b", stage names should be unique')],
        ),
        (
            "FROM scratch AS context\n",
            [("ReservedStageName", 1, 'Stage name should not use the same name as reserved stage "context"')],
        ),
        (
            "FROM scratch\nCMD run\n",
            [
                (
                    "JSONArgsRecommended",
                    2,
                    "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
                )
            ],
        ),
        (
            "FROM scratch\nMAINTAINER me\n",
            [("MaintainerDeprecated", 2, "Maintainer instruction is deprecated in favor of using label")],
        ),
        (
            "ARG tag=latest\nFROM busybox:${tag}${version} AS b\n",
            [("UndefinedArgInFrom", 2, "FROM argument 'version' is not declared")],
        ),
        (
            "FROM scratch\nWORKDIR app/\nWORKDIR other\n",
            [
                (
                    "WorkdirRelativePath",
                    2,
                    'Relative workdir "app/" can have unexpected results if the base image changes',
                )
            ],
        ),
        ("FROM alpine\nCOPY $foo .\nARG foo=bar\n", [("UndefinedVar", 2, "Usage of undefined variable '$foo'")]),
        (
            "FROM alpine\nARG DIR_ASSETS=a\nCOPY $DIR_ASSET .\n",
            [("UndefinedVar", 3, "Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)")],
        ),
        (
            "FROM alpine\nENV PATH=$PAHT:/tmp/bin\n",
            [("UndefinedVar", 2, "Usage of undefined variable '$PAHT' (did you mean $PATH?)")],
        ),
        (
            "FROM scratch\nENV name value\nlabel a b\nENV c=d\n",
            [
                (
                    "LegacyKeyValueFormat",
                    2,
                    '"ENV key=value" should be used instead of legacy "ENV key value" format',
                ),
                (
                    "ConsistentInstructionCasing",
                    3,
                    "Command 'label' should match the case of the command majority (uppercase)",
                ),
                (
                    "LegacyKeyValueFormat",
                    3,
                    '"label key=value" should be used instead of legacy "label key value" format',
                ),
            ],
        ),
        (
            "FROM --platform=${TARGETPLATFORM} scratch\n",
            [
                (
                    "RedundantTargetPlatform",
                    1,
                    "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default "
                    "behavior",
                )
            ],
        ),
        (
            "FROM --platform=linux/arm64 scratch\n",
            [
                (
                    "FromPlatformFlagConstDisallowed",
                    1,
                    'FROM --platform flag should not use constant value "linux/arm64"',
                )
            ],
        ),
        (
            "FROM --platform=$BUILDPLATFORM alpine\nFROM --platform=linux/arm64 alpine AS arm64\n",
            [
                (
                    "InvalidBaseImagePlatform",
                    2,
                    'Base image alpine was pulled with platform "linux/amd64", expected "linux/arm64" for current '
                    "build",
                )
            ],
        ),
        (
            "FROM scratch\nEXPOSE 80/TcP 8080/udp\n",
            [("ExposeProtoCasing", 2, "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase")],
        ),
        (
            "FROM scratch\nEXPOSE [::1]:80:80 8000\n",
            [
                (
                    "ExposeInvalidFormat",
                    2,
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '[::1]:80:80'",
                )
            ],
        ),
        (
            'FROM scratch\nCMD ["a"]\nCMD ["b"]\nHEALTHCHECK CMD ["a"]\nHEALTHCHECK NONE\n',
            [
                (
                    "MultipleInstructionsDisallowed",
                    2,
                    "Multiple CMD instructions should not be used in the same stage because only the last one will be "
                    "used",
                ),
                (
                    "MultipleInstructionsDisallowed",
                    4,
                    "Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one "
                    "will be used",
                ),
            ],
        ),
        (
            "ARG VERSION\nFROM busybox:$VERSION\n",
            [
                (
                    "InvalidDefaultArgInFrom",
                    2,
                    "Default value for ARG busybox:$VERSION results in empty or invalid base image name",
                )
            ],
        ),
        (
            "FROM scratch\nARG auth=bar\nENV git_key=1 PUBLIC_KEY=2\n",
            [
                (
                    "SecretsUsedInArgOrEnv",
                    2,
                    'Do not use ARG or ENV instructions for sensitive data (ARG "auth")',
                ),
                (
                    "SecretsUsedInArgOrEnv",
                    3,
                    'Do not use ARG or ENV instructions for sensitive data (ENV "git_key")',
                ),
            ],
        ),
    ],
)
def test_what_is_warned_of(text, warnings):
    build_args = {"VERSION": "1"} if "ARG VERSION\n" in text else {}
    assert found(text, build_args=build_args) == warnings


@pytest.mark.parametrize(
    "text",
    [
        "from scratch as base\ncopy a /b\n",
        "FROM alpine\nRUN <<'EOT'\nenv\nEOT\n",
        "FROM scratch\nFROM scratch AS a\n",
        'FROM scratch AS base\nSHELL ["/sh"]\nFROM base\nCMD run\n',
        'FROM scratch\nCMD ["run"]\n',
        "ARG base=scratch\nFROM $base\n",
        "FROM --platform=$BUILDPLATFORM scratch\n",
        "ARG DEBUG\nFROM scratch${DEBUG}\nFROM scra${DEBUG:-tch}\n",
        "FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n",
        "FROM scratch\nARG foo\nCOPY Dockerfile${foo} .\n",
        "FROM alpine AS base\nARG foo=a\nFROM base\nCOPY $foo .\n",
        "FROM alpine\nRUN echo $NOTHING\n",
        "FROM not-known\nCOPY $ITS_OWN /\n",
        'FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n',
        "FROM --platform=linux/amd64 scratch AS my_amd64_stage\nFROM --platform=linux/amd64 scratch AS linux\n",
        "FROM scratch\nARG SECRET_FILE\nENV AUTH_VERSION=1 keyboard=2\n",
        "FROM rootfs:/some/Folder\nFROM registry.example:5000/a/b:1@sha256:" + "0" * 64 + "\nFROM localhost/a__b--c\n",
        "# definitely a bad comment\nARG version=1\nFROM scratch\n",
        "FROM scratch\nEXPOSE 80 81/udp 82-84\n",
    ],
)
def test_what_is_not(text):
    assert found(text) == []


def test_comments_above_definitions_are_an_experiment():
    text = (
        "# check=experimental=InvalidDefinitionDescription\n# foo is\nARG foo=bar\n# BasE is\nFROM scratch AS base\n"
        "# bad\nARG foo=a bar=b\n#\nARG c\n"
    )
    assert found(text) == [
        ("InvalidDefinitionDescription", 5, "Comment for FROM should follow the format: `# base <description>`"),
        ("InvalidDefinitionDescription", 7, "Comment for ARG should follow the format: `# <arg_key> <description>`"),
    ]


@pytest.mark.parametrize(
    ("ignore", "text", "lines"),
    [
        ("Dockerfile", "FROM scratch\nCOPY Dockerfile .\nADD ./Dockerfile /x\nCOPY other .\n", [2, 3]),
        ("foobar", "FROM scratch AS base\nFROM base\nCOPY --from=base /foobar foobar /\n", []),
        ("**\n!Dockerfile", "FROM scratch\nCOPY ./Dockerfile .\nCOPY . .\n", []),
        ("dir", "FROM scratch\nCOPY . /\nCOPY dir/below /\n", [3]),
        ("*", "FROM scratch\nCOPY . /\nADD https://example.com/x /\n", [2]),
    ],
)
def test_what_the_ignore_file_leaves_out(ignore, text, lines):
    warnings = found(text, ignore=IgnoreRules.parse(ignore))
    assert [line for _, line, _ in warnings] == lines
    assert {rule for rule, _, _ in warnings} <= {"CopyIgnoredFile"}
    if lines == [2, 3]:
        assert warnings[1][2] == 'Attempting to Add file "Dockerfile" that is excluded by .dockerignore'


BAD = "FROM scratch as base\ncopy a .\n"


@pytest.mark.parametrize(
    ("directive", "override", "left", "fails"),
    [
        ("", None, ["FromAsCasing", "ConsistentInstructionCasing"], False),
        ("skip=all", None, [], False),
        ("skip=all;error=true", None, [], False),
        ("skip=ConsistentInstructionCasing,FromAsCasing", None, [], False),
        ("skip=ConsistentInstructionCasing;error=true", None, ["FromAsCasing"], True),
        ("skip=all", "skip=ConsistentInstructionCasing;error=true", ["FromAsCasing"], True),
        ("error=true", "skip=all", [], False),
    ],
)
def test_checks_are_turned_off_and_made_errors(directive, override, left, fails):
    text = f"# check={directive}\n{BAD}" if directive else f"\n{BAD}"
    result = lint(text, build_args={} if override is None else {"BUILDKIT_DOCKERFILE_CHECK": override})
    assert [warning.rule for warning in result.warnings] == left
    violation = result.violation()
    assert (violation is not None) == fails
    if violation is not None:
        assert violation.reason == "lint violation found for rules: FromAsCasing"
        assert violation.line == 2


def test_a_comment_turns_checks_off_for_one_instruction():
    text = (
        "FROM scratch\n# check=skip=SecretsUsedInArgOrEnv // it is none\nENV password=1\n"
        "# check=skip=all\nMAINTAINER me\n# check=nonsense\nENV password=2\n"
    )
    assert rules(text) == [("SecretsUsedInArgOrEnv", 7)]


def test_only_the_stages_that_the_target_needs():
    text = "FROM scratch AS a\nCOPY $foo .\nFROM scratch AS b\nCOPY $bar .\nFROM scratch AS c\nCOPY --from=a / $baz\n"
    assert [line for _, line in rules(text)] == [2, 4, 6]
    assert [line for _, line in rules(text, target=2)] == [2, 6]


def test_what_was_found_before_an_error_is_told():
    result = lint("FROM scratch AS Bad\nMAINTAINER me\nBADCMD\n")
    assert [warning.rule for warning in result.warnings] == ["StageNameCasing", "MaintainerDeprecated"]
    assert result.error is not None
    assert result.error.line == 3


@pytest.mark.parametrize("text", ["skip", "skp=all", "error=maybe"])
def test_options_that_cannot_be_read(text):
    with pytest.raises(DockerfileError, match="check option"):
        CheckOptions.parse(text)
    with pytest.raises(DockerfileError, match="check option"):
        lint(f"# check={text}\nFROM scratch\n")


def test_a_warning_in_full():
    warning = LintWarning("JSONArgsRecommended", 3, "text")
    assert str(warning) == "JSONArgsRecommended: text (line 3)"
    assert warning.url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    assert warning.description.startswith("JSON arguments recommended")
    urls = {LintWarning(rule, 1, "").url.rpartition("/rule/")[2] for rule in DESCRIPTIONS}
    assert {"from-as-casing/", "secrets-used-in-arg-or-env/", "invalid-default-arg-in-from/"} < urls


@pytest.mark.parametrize(
    "source", [b"\xff\xfe", "FROM\n", "FROM ${", "", "# check=skip=all\n", "FROM a AS b\nRUN <<EOF\n"]
)
def test_what_is_no_dockerfile_is_an_error_in_the_result(source):
    assert isinstance(lint(source).error, DockerfileError)
