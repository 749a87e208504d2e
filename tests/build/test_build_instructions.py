"""What each instruction leaves in the image's config and history; the expected words are BuildKit's.

Read off ``dockerfile2llb/convert.go``: an instruction that changes files is marked ``# buildkit`` (WORKDIR is not), ARG
shows the value it came to, ONBUILD is not told of.
"""

import pytest

from pytest_capsule.build.history import duration
from pytest_capsule.oci.config import Healthcheck
from pytest_capsule.store.builtin import DEFAULT_PATH


def history(image):
    return [(entry.created_by, entry.empty_layer) for entry in image.config.history]


@pytest.mark.parametrize(
    ("instruction", "field", "value", "said"),
    [
        ("ENV A=1 B='two words'", "env", (f"PATH={DEFAULT_PATH}", "A=1", "B=two words"), "ENV A=1 B=two words"),
        ("ENV OLD one two", "env", (f"PATH={DEFAULT_PATH}", "OLD=one two"), "ENV OLD=one two"),
        ("ENV PATH=/new:$PATH", "env", (f"PATH=/new:{DEFAULT_PATH}",), f"ENV PATH=/new:{DEFAULT_PATH}"),
        ("LABEL a=1 b=2 a=3", "labels", {"a": "3", "b": "2"}, "LABEL a=1 b=2 a=3"),
        ("EXPOSE 80 53/udp 9000-9001", "exposed_ports", ("53/udp", "80/tcp", "9000/tcp", "9001/tcp"), None),
        ("EXPOSE 443", "exposed_ports", ("443/tcp",), "EXPOSE [443/tcp]"),
        ("VOLUME /data /more", "volumes", ("/data", "/more"), "VOLUME [/data /more]"),
        ('VOLUME ["/a b"]', "volumes", ("/a b",), "VOLUME [/a b]"),
        ("USER app:staff", "user", "app:staff", "USER app:staff"),
        ("STOPSIGNAL SIGINT", "stop_signal", "SIGINT", "STOPSIGNAL SIGINT"),
        ('SHELL ["/bin/bash", "-ec"]', "shell", ("/bin/bash", "-ec"), "SHELL [/bin/bash -ec]"),
        ("CMD echo hi", "cmd", ("/bin/sh", "-c", "echo hi"), 'CMD ["/bin/sh" "-c" "echo hi"]'),
        ('CMD ["a", "b\\"c"]', "cmd", ("a", 'b"c'), 'CMD ["a" "b\\"c"]'),
        ("CMD []", "cmd", (), "CMD []"),
        ('ENTRYPOINT ["/run"]', "entrypoint", ("/run",), 'ENTRYPOINT ["/run"]'),
        ("ENTRYPOINT exec /run", "entrypoint", ("/bin/sh", "-c", "exec /run"), None),
        ("WORKDIR /", "working_dir", "/", "WORKDIR /"),
    ],
)
def test_an_instruction_that_changes_only_the_config(project, instruction, field, value, said):
    image = project.build(f"FROM scratch\n{instruction}\n")
    assert getattr(image.config.config, field) == value
    assert image.layers == ()
    (entry,) = image.config.history
    assert entry.empty_layer
    assert entry.comment == "buildkit.dockerfile.v0"
    if said is not None:
        assert entry.created_by == said


def test_maintainer_is_the_author(project):
    image = project.build("FROM scratch\nMAINTAINER A Name <a@example.org>\n")
    assert image.config.author == "A Name <a@example.org>"
    assert history(image) == [("MAINTAINER A Name <a@example.org>", True)]


def test_healthcheck(project):
    image = project.build(
        "FROM scratch\n"
        "HEALTHCHECK --interval=90s --timeout=1500ms --start-period=1h --retries=3 CMD curl -f localhost\n"
    )
    assert image.config.config.healthcheck == Healthcheck(
        test=("CMD-SHELL", "curl -f localhost"),
        interval=90 * 10**9,
        timeout=1_500_000_000,
        start_period=3600 * 10**9,
        retries=3,
    )
    assert history(image) == [
        (
            "HEALTHCHECK {Test:[CMD-SHELL curl -f localhost] Interval:1m30s Timeout:1.5s StartPeriod:1h0m0s "
            "StartInterval:0s Retries:3}",
            True,
        )
    ]
    none = project.build("FROM scratch\nHEALTHCHECK CMD true\nHEALTHCHECK NONE\n")
    assert none.config.config.healthcheck == Healthcheck(test=("NONE",))


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (250_000_000, "250ms"),
        (1_000_000_000, "1s"),
        (61_001_000_000, "1m1.001s"),
        (86_400_000_000_000, "24h0m0s"),
    ],
)
def test_durations_read_as_go_prints_them(nanoseconds, text):
    assert duration(nanoseconds) == text


def test_onbuild_waits_for_the_next_build(project):
    project.write("answer", "42")
    base = project.build("FROM scratch\nONBUILD COPY answer /answer\nONBUILD ENV WOKEN=yes\n", tag="onbuild-base")
    assert base.config.config.on_build == ("COPY answer /answer", "ENV WOKEN=yes")
    assert base.layers == ()
    assert base.config.history == ()

    child = project.build("FROM onbuild-base\nENV LATER=1\n")
    assert child.config.config.on_build == ()
    assert [said for said, _ in history(child)] == ["COPY answer /answer # buildkit", "ENV WOKEN=yes", "ENV LATER=1"]
    with project.files(child) as container:
        assert container.read_text("/answer") == "42"


def test_onbuild_may_copy_from_a_stage_that_nothing_else_needs(project):
    project.build("FROM scratch\nONBUILD COPY --from=assets /asset /asset\n", tag="wants-assets")
    project.write("asset", "from a stage")
    image = project.build("FROM scratch AS assets\nCOPY asset /asset\nFROM wants-assets\n")
    with project.files(image) as container:
        assert container.read_text("/asset") == "from a stage"


def test_onbuild_of_an_earlier_stage_works_within_the_same_file(project):
    image = project.build("FROM scratch AS base\nONBUILD LABEL woken=yes\nFROM base AS child\nFROM child\n")
    assert image.config.config.labels == {"woken": "yes"}
    assert len(image.config.history) == 1, "the trigger fires in the child, and not in the child's child"


def test_entrypoint_drops_the_command_of_the_base_but_not_its_own(project):
    project.build('FROM scratch\nENTRYPOINT ["/e"]\nCMD ["base"]\n', tag="with-command")
    dropped = project.build('FROM with-command\nENTRYPOINT ["/mine"]\n').config.config
    assert (dropped.entrypoint, dropped.cmd) == (("/mine",), ())
    kept = project.build('FROM with-command\nCMD ["own"]\nENTRYPOINT ["/mine"]\n').config.config
    assert (kept.entrypoint, kept.cmd) == (("/mine",), ("own",))
    reset = project.build("FROM with-command\nENTRYPOINT []\n").config.config
    assert (reset.entrypoint, reset.cmd) == ((), ())


def test_workdir_is_relative_to_the_last_one_and_made_when_missing(project):
    image = project.build("FROM scratch\nWORKDIR /srv\nWORKDIR app\nWORKDIR ../lib\nENV D=deep\nWORKDIR $D/er\n")
    assert image.config.config.working_dir == "/srv/lib/deep/er"
    assert history(image) == [
        ("WORKDIR /srv", False),
        ("WORKDIR /srv/app", False),
        ("WORKDIR /srv/lib", False),
        ("ENV D=deep", True),
        ("WORKDIR /srv/lib/deep/er", False),
    ]
    with project.files(image) as container:
        assert container.listdir("/srv") == ["app", "lib"]
        assert container.exists("/srv/lib/deep/er")


def test_workdir_that_is_there_makes_no_layer(project):
    image = project.build("FROM scratch\nWORKDIR /srv\nWORKDIR /srv\n")
    assert history(image) == [("WORKDIR /srv", False), ("WORKDIR /srv", True)]
    assert len(image.layers) == 1


@pytest.mark.identities("root", "range")
def test_workdir_belongs_to_the_user_of_then(project):
    image = project.build("FROM capsule/host\nUSER 1234\nWORKDIR /srv/own\nUSER root\nWORKDIR /srv/own/roots\n")
    with project.files(image) as container:
        listed = container.exec(["stat", "-c", "%u:%g %a %n", "/srv", "/srv/own", "/srv/own/roots"], check=True).stdout
    assert listed.splitlines() == ["0:0 755 /srv", "1234:1234 755 /srv/own", "0:0 755 /srv/own/roots"]


def test_arguments_in_history(project):
    image = project.build("FROM scratch\nARG A\nARG B=2 C=3\n", build_args={"C": "given"})
    assert history(image) == [("ARG A", True), ("ARG B=2 C=given", True)]


def test_a_continued_line_and_comments_within_it(project):
    image = project.build("FROM scratch\nENV A=1 \\\n # not part of it\n\n    B=2\n")
    assert image.config.config.env[1:] == ("A=1", "B=2")


def test_an_image_keeps_the_history_of_its_base(project):
    project.build("FROM scratch\nENV BASE=1\n", tag="history-base")
    image = project.build("FROM history-base\nENV TOP=1\n")
    assert [said for said, _ in history(image)] == ["ENV BASE=1", "ENV TOP=1"]
    assert [entry.created_by for entry in project.engine.history(image)] == ["ENV TOP=1", "ENV BASE=1"]


def test_a_base_without_a_path_gets_the_default_one(project, tmp_path):
    (tmp_path / "root").mkdir()
    image = project.build(f"FROM rootfs:{tmp_path / 'root'}\nENV A=1\n")
    assert image.config.config.env == (f"PATH={DEFAULT_PATH}", "A=1")


def test_labels_besides_those_of_the_dockerfile(project):
    """What is given wins, and no step has to be done again for it."""
    text = "FROM scratch\nLABEL a=file b=file\nWORKDIR /made\n"
    project.build(text)
    image = project.build(text, labels={"a": "given", "c": "given"})
    assert image.config.config.labels == {"a": "given", "b": "file", "c": "given"}
    assert project.kinds() == ["cached"]
    assert len(image.config.history) == 2
