"""``progress.PlainProgress``: a build's events as BuildKit's plain lines."""

import datetime

import pytest

from pytest_capsule.build.events import BuildEvent
from pytest_capsule.cli.table import age, size, table
from pytest_capsule.progress import PlainProgress


def shown(*events, name="", times=()):
    written, clock = [], iter(times)
    progress = PlainProgress(written.append, name=name, clock=lambda: next(clock))
    for event in events:
        progress(event)
    return "".join(written)


def step(kind, text="", seconds=0.0, name="[2/2] RUN make"):
    return BuildEvent(kind, name, text=text, seconds=seconds)


def test_a_step_with_its_output():
    events = [step("start"), step("output", "one\ntw"), step("output", "o\n"), step("done", seconds=0.31)]
    assert shown(*events, times=[10, 10.12, 10.3]) == (
        "#1 [2/2] RUN make\n#1 0.120 one\n#1 0.300 two\n#1 DONE 0.3s\n\n"
    )


def test_a_last_line_without_its_end():
    events = [step("start"), step("output", "oops"), step("failed", "exit code 1")]
    assert shown(*events, times=[0, 1, 2]) == "#1 [2/2] RUN make\n#1 2.000 oops\n#1 ERROR: exit code 1\n"


def test_a_progress_bar_is_shown_as_it_ends():
    events = [step("start"), step("output", " 10%\r 50%\r100%\r\n")]
    assert shown(*events, times=[0, 1]) == "#1 [2/2] RUN make\n#1 1.000 100%\n"


def test_steps_that_take_turns_keep_their_numbers():
    events = [
        step("start", name="[a 1/1] RUN x"),
        step("cached", name="[b 1/1] RUN y"),
        step("output", "late\n", name="[a 1/1] RUN x"),
    ]
    assert shown(*events, times=[0, 0, 1]) == ("#1 [a 1/1] RUN x\n#2 [b 1/1] RUN y\n#2 CACHED\n\n#1 1.000 late\n")


def test_the_image_and_its_name():
    assert shown(BuildEvent("image", "app", text="sha256:12"), name="docker.io/library/app:1") == (
        "#1 exporting to image\n#1 writing image sha256:12 done\n"
        "#1 naming to docker.io/library/app:1 done\n#1 DONE 0.0s\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1366, "1.37kB"), (125_000_000, "125MB"), (999_900, "1MB")],
)
def test_sizes_as_docker_writes_them(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        ({"milliseconds": 300}, "Less than a second ago"),
        ({"seconds": 1}, "1 second ago"),
        ({"seconds": 59}, "59 seconds ago"),
        ({"seconds": 60}, "About a minute ago"),
        ({"minutes": 59}, "59 minutes ago"),
        ({"minutes": 70}, "About an hour ago"),
        ({"hours": 47}, "47 hours ago"),
        ({"days": 3}, "3 days ago"),
        ({"days": 20}, "2 weeks ago"),
        ({"days": 100}, "3 months ago"),
        ({"days": 800}, "2 years ago"),
    ],
)
@pytest.mark.parametrize("made", ["2024-05-01T10:00:00Z", "2024-05-01T12:00:00.123456789+02:00"])
def test_ages_as_docker_writes_them(made, passed, text):
    now = datetime.datetime(2024, 5, 1, 10, tzinfo=datetime.timezone.utc) + datetime.timedelta(**passed)
    assert age(made, now) == text


@pytest.mark.parametrize("made", ["", "0001-01-01T00:00:00Z", "yesterday"])
def test_no_age(made):
    assert age(made, datetime.datetime.now(datetime.timezone.utc)) == "N/A"


def test_columns_are_at_least_ten_wide():
    assert table(("A", "LONG HEADER", "B"), [("x", "y", "last one")]) == (
        "A         LONG HEADER   B\nx         y             last one"
    )
