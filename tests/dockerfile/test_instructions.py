from __future__ import annotations

import pytest

from pytest_capsule.dockerfile import (
    Add,
    Arg,
    Cmd,
    Copy,
    Declaration,
    Device,
    Entrypoint,
    Env,
    Expander,
    Expose,
    From,
    Healthcheck,
    InlineFile,
    Label,
    Maintainer,
    Mount,
    Onbuild,
    Pair,
    Run,
    Script,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
    parse,
)
from pytest_capsule.errors import DockerfileError

SH = ("/bin/sh", "-c")


def one(text, escape="\\"):
    """The only instruction of a stage."""
    (instruction,) = parse(f"# escape={escape}\nFROM scratch\n{text}\n").stages[0].instructions
    return instruction


def refusal(text):
    with pytest.raises(DockerfileError) as refused:
        one(text)
    assert refused.value.line == 3
    assert refused.value.text == text.split("\n")[0]
    return refused.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARG a b=1 c=", Arg(declarations=(Declaration("a"), Declaration("b", "1"), Declaration("c", "")))),
        ("ENV a=b c=d", Env(pairs=(Pair("a", "b"), Pair("c", "d")))),
        ("env a b  c", Env(pairs=(Pair("a", "b  c", is_legacy=True),))),
        ('LABEL a="b c"', Label(pairs=(Pair("a", '"b c"'),))),
        ("RUN a b", Run(words=("a b",))),
        ('RUN ["a", "b"]', Run(words=("a", "b"), is_json=True)),
        ("RUN", Run(words=())),
        ("RUN --network=host --security=insecure a", Run(words=("a",), network="host", security="insecure")),
        ("RUN --device=x/y=z,required a", Run(words=("a",), devices=(Device("x/y=z", True),))),
        ("RUN --device=name=x,required=false a", Run(words=("a",), devices=(Device("x"),))),
        ("CMD a b", Cmd(words=("a b",))),
        ('ENTRYPOINT ["a"]', Entrypoint(words=("a",), is_json=True)),
        ("ENTRYPOINT []", Entrypoint(words=(), is_json=True)),
        ("COPY a b c/", Copy(sources=("a", "b"), dest="c/")),
        ('COPY ["a b", "c"]', Copy(sources=("a b",), dest="c")),
        (
            "COPY --from=0 --chown=1:2 --chmod=u+x --link --parents=false --exclude=*.a --exclude=*.b a b",
            Copy(sources=("a",), dest="b", from_="0", chown="1:2", chmod="u+x", link=True, exclude=("*.a", "*.b")),
        ),
        ("COPY --parents a b", Copy(sources=("a",), dest="b", parents=True)),
        ("COPY <<A x <<-'B' d\n1\nA\n\t2\nB", Copy(
            sources=("x",), dest="d", files=(InlineFile("A", "1\n"), InlineFile("B", "2\n", expand=False))
        )),
        (
            "ADD --checksum=sha256:00 --keep-git-dir --unpack=FALSE https://x/y /",
            Add(sources=("https://x/y",), dest="/", checksum="sha256:00", keep_git_dir=True, unpack=False),
        ),
        ("ADD a b", Add(sources=("a",), dest="b", keep_git_dir=None, unpack=None)),
        ("EXPOSE 90 80/udp", Expose(ports=("80/udp", "90"))),
        ('VOLUME [" /a ", "/b"]', Volume(paths=("/a", "/b"))),
        ("WORKDIR a b", Workdir(path="a b")),
        ("USER a", User(user="a")),
        ("MAINTAINER a <b>", Maintainer(name="a <b>")),
        ("STOPSIGNAL --whatever 9", Stopsignal(signal="9")),
        ('SHELL ["a", "b"]', Shell(words=("a", "b"))),
        ("HEALTHCHECK none", Healthcheck(test=("NONE",))),
        ("HEALTHCHECK CMD a b", Healthcheck(test=("CMD-SHELL", "a b"))),
        (
            "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0s --start-interval=100ms --retries=+3 "
            'CMD ["a", "b"]',
            Healthcheck(
                test=("CMD", "a", "b"),
                interval=90_000_000_000,
                timeout=1_500_000_000,
                start_interval=100_000_000,
                retries=3,
            ),
        ),
        ("onbuild  run a  b", Onbuild(expression="run a  b")),
        ("ONBUILD RUN <<EOF\na\nEOF", Onbuild(expression="RUN <<EOF\na\nEOF")),
        ("ONBUILD FOO bar", Onbuild(expression="FOO bar")),
    ],
)  # fmt: skip
def test_what_an_instruction_says(text, expected):
    assert one(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("RUNN x", "unknown instruction: RUNN", "did you mean RUN?"),
        ("copi a b", "unknown instruction: copi", "did you mean COPY?"),
        ("if x", "unknown instruction: if", None),
        ("COPY a", "COPY requires at least two arguments, but only one was provided", None),
        ("ADD", "ADD requires at least two arguments", None),
        ("COPY --form=x a b", "unknown flag: --form", "did you mean --from?"),
        ("COPY --from a b", "missing a value on flag: --from", "--from=VALUE"),
        ("COPY --link= a b", "missing a value on flag: --link", None),
        ("COPY --link=x a b", "expecting boolean value for flag --link, not: x", None),
        ("COPY --chown=1 --chown=2 a b", "duplicate flag specified: --chown", None),
        ("COPY --from=$base a b", "variable expansion is not supported for --from", None),
        ("COPY a <<EOF\nEOF", "COPY cannot accept a heredoc as a destination", None),
        ("CMD --x a", "unknown flag: --x", "takes no flags"),
        ("USER --x a", "unknown flag: --x", None),
        ("ENV", "ENV requires at least one argument", None),
        ("ENV =a", "ENV names can not be blank", None),
        ("LABEL", "LABEL requires at least one argument", None),
        ("ARG", "ARG requires at least one argument", None),
        ("ARG =x", "ARG names can not be blank", None),
        ("EXPOSE", "EXPOSE requires at least one argument", None),
        ("VOLUME", "VOLUME requires at least one argument", None),
        ('VOLUME [""]', "VOLUME specified can not be an empty string", None),
        ("WORKDIR", "WORKDIR requires exactly one argument", None),
        ("USER", "USER requires exactly one argument", None),
        ("MAINTAINER", "MAINTAINER requires exactly one argument", None),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument", None),
        ("SHELL /bin/bash -c", "SHELL requires the arguments to be in JSON form", '["/bin/bash", "-c"]'),
        ("SHELL []", "SHELL requires at least one argument", None),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument", None),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD", None),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments", None),
        ("HEALTHCHECK curl x", 'Unknown type "CURL" in HEALTHCHECK (try CMD)', None),
        ("HEALTHCHECK --interval=10 CMD x", 'missing unit in duration "10"', "30s"),
        ("HEALTHCHECK --timeout=50us CMD x", 'Interval "timeout" cannot be less than 1ms', None),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)", None),
        ("HEALTHCHECK --retries=x CMD x", 'parsing "x": invalid syntax', None),
        ("ONBUILD", "ONBUILD requires at least one argument", None),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger", None),
        ("ONBUILD maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger", None),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", None),
        ("RUN --network=x a", 'invalid network mode "x"', None),
        ("RUN --security=x a", 'security "x" is not valid', None),
        ("RUN --mount=from=$x,target=/y a", "'from' doesn't support variable expansion", None),
        ('RUN --mount=a"b a', None, None),
        ("RUN --mount= a", "failed to parse csv mounts", None),
        ("FROM a b", "FROM requires either one or three arguments", None),
        ("FROM a AS 1b", 'invalid name for build stage: "1b"', None),
        ("FROM --platfrom=x a", "unknown flag: --platfrom", "did you mean --platform?"),
    ],
)
def test_what_is_refused(text, reason, hint):
    if reason is None:
        assert one(text.replace('"', "'x'")).mount_flags == ("axb",)  # quotes of a flag are gone before it is read
        return
    error = refusal(text)
    assert reason in error.reason
    if hint:
        assert hint in error.hint


ENV = {"a": "1", "b": "2 3", "empty": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ENV $a=$b a=9 c=$a", Env(pairs=(Pair("1", "2 3"), Pair("a", "9"), Pair("c", "1")))),
        ("LABEL x='$a' y=\"$a\"", Label(pairs=(Pair("x", "$a"), Pair("y", "1")))),
        ("RUN echo $a", Run(words=("echo $a",))),
        ('CMD ["$a"]', Cmd(words=("$a",), is_json=True)),
        ("EXPOSE $b/udp 80", Expose(ports=("2", "3/udp", "80"))),
        ("VOLUME /$a", Volume(paths=("/1",))),
        ("WORKDIR /$a/${b}", Workdir(path="/1/2 3")),
        ("USER ${u:-me}", User(user="me")),
        ("STOPSIGNAL SIG${s:-term}", Stopsignal(signal="SIGterm")),
        (
            "COPY --chown=$a:$a --chmod=${m-755} --exclude=$a $a\\ x $b /$a",
            Copy(sources=("1", "x", "2 3"), dest="/1", chown="1:1", chmod="755", exclude=("$a",)),
        ),
        (
            "COPY <<E <<'F' /$a\n$a '$b'\nE\n$a\nF",
            Copy(sources=(), dest="/1", files=(InlineFile("E", "1 '2 3'\n"), InlineFile("F", "$a\n", expand=False))),
        ),
        ("ADD --checksum=$a $a /", Add(sources=("1",), dest="/", checksum="1")),
        ("ONBUILD RUN $a", Onbuild(expression="RUN $a")),
        ("HEALTHCHECK CMD $a", Healthcheck(test=("CMD-SHELL", "$a"))),
    ],
)
def test_what_is_expanded_and_what_is_not(text, expected):
    assert one(text).expand(Expander(ENV)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("USER ${x", "missing '}'"),
        ("WORKDIR ${x:?which}", "x: which"),
        ("VOLUME $empty", "VOLUME specified can not be an empty string"),
        ("STOPSIGNAL SIGFOO", "Invalid signal: SIGFOO"),
        ("STOPSIGNAL 0", "Invalid signal: 0"),
        ("RUN --mount=type=x a", 'unsupported mount type "x"'),
        ("ARG x=${y?}", "y: is not allowed to be unset"),
    ],
)
def test_an_error_of_expansion_has_the_place_of_its_instruction(text, reason):
    with pytest.raises(DockerfileError) as refused:
        one(text).expand(Expander(ENV))
    assert reason in refused.value.reason
    assert (refused.value.line, refused.value.text) == (3, text)


def test_the_backtick_reaches_the_expansion():
    assert one("WORKDIR c:\\`$a$a", escape="`").expand(Expander(ENV, escape="`")) == Workdir(path="c:\\$a1")


def test_from_is_expanded_with_the_global_arguments():
    from_ = parse("FROM --platform=$p ${i:-alpine}:$v AS X").stages[0].from_
    expanded = From(base="alpine:3", alias="x", platform="linux/arm64")
    assert from_.expand(Expander({"p": "linux/arm64", "v": "3"})) == expanded
    with pytest.raises(DockerfileError, match=r"empty platform value from expression \$p"):
        from_.expand(Expander({}))
    with pytest.raises(DockerfileError, match=r"base name \(\$i\) should not be blank"):
        parse("FROM $i").stages[0].from_.expand(Expander({}))


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("FROM --platform=$BULIDPLATFORM a", "empty platform value", "did you mean BUILDPLATFORM?"),
        ("FROM --platform=linux/$BULIDPLATFORM a", '"linux/" is no platform', "did you mean BUILDPLATFORM?"),
        ("FROM --platform=linux/amd64/v2/x a", '"linux/amd64/v2/x" is no platform', "write os/architecture"),
        ("FROM $BASEIMGAE", "base name", "did you mean BASEIMAGE?"),
        ("FROM $elsewhere", "base name", "give the ARG a default"),
    ],
)
def test_a_from_that_comes_out_wrong(text, reason, hint):
    with pytest.raises(DockerfileError, match=reason) as caught:
        parse(text).stages[0].from_.expand(Expander({"BUILDPLATFORM": "linux/amd64", "BASEIMAGE": "a"}))
    assert caught.value.line == 1
    assert caught.value.hint.startswith(hint)


def test_args_are_resolved_in_the_order_of_docker():
    arg = one("ARG a=${x?} b=$a-$e c d inherited")
    values = arg.resolve(Expander({"e": "env"}), {"a": "given", "d": ""}, {"inherited": "global", "d": "global"})
    assert dict(values) == {"a": "given", "b": "given-env", "c": None, "d": "", "inherited": "global"}
    assert one("ARG a=1 b=$a").expand(Expander({})) == one("ARG a=1 b=1")


@pytest.mark.parametrize(
    ("text", "argv", "script"),
    [
        ("RUN echo a  b", (*SH, "echo a  b"), None),
        ('RUN ["echo", "a  b"]', ("echo", "a  b"), None),
        ("RUN", (*SH, ""), None),
        ("RUN <<E\na $b\nE", (*SH, "a $b\n"), None),
        ("RUN <<-'E'\n\ta\n\tE", (*SH, "a\n"), None),
        ("RUN <<E\n#!/bin/cat\nb\nE", (*SH, "/dev/pipes/E"), Script("/dev/pipes/E", "#!/bin/cat\nb\n")),
        ("RUN python <<E | tr a b\nprint()\nE", (*SH, "python <<E | tr a b\nprint()\nE"), None),
        ("RUN cat <<A - <<-B\n1\nA\n\t2\nB", (*SH, "cat <<A - <<-B\n1\nA\n\t2\nB"), None),
    ],
)
def test_what_a_run_runs(text, argv, script):
    run = one(text)
    assert run.argv(SH) == argv
    assert run.script() == script


def test_cmd_runs_through_the_shell_unless_it_is_a_list():
    assert one("CMD a b").argv(SH) == (*SH, "a b")
    assert one('CMD ["a", "b"]').argv(SH) == ("a", "b")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("target=/x", Mount(target="/x")),
        ("type=bind,from=img,src=/s,dst=/x,rw", Mount(from_="img", source="/s", target="/x", read_only=False)),
        ("type=CACHE,id=$a,target=/c,sharing=Locked,mode=0755,uid=1,gid=2", Mount(
            type="cache", id="1", target="/c", sharing="locked", mode=0o755, uid=1, gid=2, read_only=False
        )),
        ("type=tmpfs,target=/t,size=1.5m", Mount(type="tmpfs", target="/t", size=1572864, read_only=False)),
        ("type=secret,id=t,env=TOKEN,required", Mount(type="secret", id="t", env="TOKEN", required=True)),
        ("type=ssh,readonly=false,required=true", Mount(type="ssh", read_only=False, required=True)),
        ('"type=bind","target=/a,b"', Mount(target="/a,b")),
    ],
)  # fmt: skip
def test_mounts(flag, expected):
    run = one(f"RUN --mount='{flag}' x")
    assert run.mounts == ()
    assert run.mount_sources == (expected.from_,)
    assert run.expand(Expander(ENV)).mounts == (expected,)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("target", "invalid field 'target' must be a key=value pair"),
        ("tpye=bind", "unexpected key 'tpye' in 'tpye=bind'"),
        ("type=bind,mode=1", 'mode not allowed for "bind" type mounts'),
        ("type=cache,mode=8", "invalid value 8 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=cache,sharing=x", 'unsupported sharing value "x"'),
        ("type=bind,sharing=shared", "invalid cache sharing set for bind mount"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=x,source=y", "both source and id can't be set"),
        ("type=secret,id=x,from=y", "secret mount should not have a from"),
        ("required,type=secret,id=x", "unexpected key 'required' for mount type 'bind'"),
        ("size=1m", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=much", "invalid value for size: much"),
        ("ro=maybe", "invalid value for ro: maybe"),
    ],
)
def test_bad_mounts_are_refused_when_they_are_expanded(flag, reason):
    run = one(f"RUN --mount={flag} x")
    with pytest.raises(DockerfileError) as refused:
        run.expand(Expander({}))
    assert reason in refused.value.reason
    assert refused.value.line == 3


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/UDP 81/sctp", ["80/udp", "81/sctp"]),
        ("8000-8002", ["8000/tcp", "8001/tcp", "8002/tcp"]),
        ("127.0.0.1:9000:80 [::1]:90:91", ["80/tcp", "91/tcp"]),
        ("8080-8090:80", ["80/tcp"]),
    ],
)
def test_exposed_ports(text, ports):
    assert one(f"EXPOSE {text}").exposed() == tuple(ports)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("80/icmp", "invalid proto: icmp"),
        ("/tcp", "no port specified"),
        ("http", "invalid containerPort: http"),
        ("9-8", "invalid containerPort: 9-8"),
        ("65536", "invalid containerPort: 65536"),
        ("x:80", "invalid hostPort: x"),
        ("1-3:80-81", "invalid ranges"),
        ("host:1:2", "invalid IP address: host"),
    ],
)
def test_bad_ports(text, reason):
    with pytest.raises(DockerfileError) as refused:
        one(f"EXPOSE {text}").exposed()
    assert reason in refused.value.reason
    assert refused.value.line == 3


def test_exclude_patterns_are_rules():
    rules = one("COPY --exclude=*.pyc --exclude=!keep.pyc . /").exclude_rules()
    assert [name for name in ("a.pyc", "keep.pyc", "a.py") if rules.ignores(name)] == ["a.pyc"]
    with pytest.raises(DockerfileError) as refused:
        one("COPY --exclude=[ . /").exclude_rules()
    assert refused.value.line == 3
