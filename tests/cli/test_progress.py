"""How a build is shown: its events as BuildKit's plain lines, on a terminal, as JSON."""

import datetime
import json
import re

import pytest

from pytest_capsule.build.events import BuildEvent
from pytest_capsule.cli.table import age, size, table
from pytest_capsule.progress import JsonProgress, LiveProgress, PlainProgress, Progress, in_words


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


def test_what_made_a_step_run_and_what_ended_it():
    events = [step("start", "src/main.py changed"), step("canceled", seconds=1.0)]
    assert shown(*events, times=[0]) == "#1 [2/2] RUN make\n#1 not cached: src/main.py changed\n#1 CANCELED\n\n"


def test_steps_of_several_builds_at_once_are_told_apart():
    events = [BuildEvent("cached", "[1/1] RUN x", dockerfile=name) for name in ("a/Dockerfile", "b/Dockerfile")]
    assert shown(*events, times=[0, 0]).count("[1/1] RUN x") == 2


@pytest.mark.parametrize(("count", "head"), [(1, " 1 warning found:"), (2, " 2 warnings found:")])
def test_warnings_come_last(count, head):
    written = []
    with PlainProgress(written.append) as progress:
        for number in range(count):
            progress(BuildEvent("warning", "Rule", line=number, text=f"Rule: bad (line {number})"))
        progress(BuildEvent("image", "app", text="sha256:12"))
    assert "".join(written).endswith(
        f"DONE 0.0s\n\n{head}\n - Rule: bad (line 0)\n" + " - Rule: bad (line 1)\n" * (count - 1)
    )


class Screen:
    """A terminal that knows what ``LiveProgress`` uses."""

    def __init__(self, columns=60, rows=12):
        self.columns, self.rows = columns, rows
        self.lines, self.at, self.raw = [""], 0, ""
        self.is_last = False

    def write(self, text):
        self.raw += text
        for part in re.findall(r"\x1b\[[?0-9]*[a-zA-Z]|\n|\r|[^\x1b\r\n]+", text):
            self.take(part)

    def take(self, part):
        if part == "\n":
            self.at += 1
            self.lines += [""] * (self.at + 1 - len(self.lines))
        elif re.fullmatch(r"\x1b\[\d+A", part):
            self.at -= int(part[2:-1])
            assert self.at >= max(0, len(self.lines) - self.rows), "what has scrolled out is out of reach"
        elif part == "\x1b[J":
            del self.lines[self.at + 1 :]
            self.lines[self.at] = ""
        elif part.startswith("\x1b") or part == "\r":
            return
        else:
            assert self.is_last or len(part) <= self.columns, "a line that wraps would be two to go up by"
            self.lines[self.at] = part

    def text(self):
        return "\n".join(self.lines)


def test_a_build_on_a_terminal():
    screen, now = Screen(), [10.0]
    progress = LiveProgress(screen.write, lambda: (60, 12), name="app:latest", clock=lambda: now[0])
    progress(BuildEvent("cached", "[1/3] FROM base"))
    progress(step("start", name="[2/3] RUN make"))
    now[0] = 11.5
    progress(step("output", "one\ntwo \x1b[2J\n 10%\r 50%", name="[2/3] RUN make"))
    assert screen.text() == (
        "[+] Building 1.5s (1/2)\n"
        " => CACHED [1/3] FROM base                              0.0s\n"
        " => [2/3] RUN make                                      1.5s\n"
        " => => # one\n"
        " => => # two  [2J\n"
        " => => #  50%\n"
    )
    now[0] = 12.0
    progress.draw()
    assert " => [2/3] RUN make                                      2.0s\n => => # one" in screen.text()
    progress(step("done", seconds=2.25, name="[2/3] RUN make"))
    progress(BuildEvent("image", "app", text="sha256:12"))
    progress.close()
    assert screen.text() == (
        "[+] Building 2.0s (3/3) FINISHED\n"
        " => CACHED [1/3] FROM base                              0.0s\n"
        " => [2/3] RUN make                                      2.2s\n"
        " => exporting to image app:latest                       0.0s\n"
    )


def test_only_what_fits_is_drawn_and_all_of_it_in_the_end():
    screen = Screen(rows=6)
    progress = LiveProgress(screen.write, lambda: (60, 6), clock=lambda: 0.0)
    for number in range(20):
        progress(BuildEvent("cached", f"[{number}/20] RUN " + "long " * 20))
        assert len(screen.lines) <= 6
    progress(step("start", name="[20/20] RUN last"))
    for number in range(20):
        progress(step("output", f"{number}\n", name="[20/20] RUN last"))
    assert screen.lines[-2] == " => => # 19"
    progress(step("failed", "exit code 1", name="[20/20] RUN last"))
    screen.is_last = True
    progress.close()
    assert len(screen.lines) == 23
    assert screen.lines[1] == " => CACHED [0/20] RUN " + "long " * 20 + "0.0s"
    assert screen.lines[-2].startswith(" => ERROR [20/20] RUN last")


def test_the_live_view_is_drawn_while_nothing_happens_and_the_cursor_comes_back():
    import threading

    drawn = threading.Event()
    written = []

    def write(text):
        written.append(text)
        if len(written) > 5:
            drawn.set()

    with LiveProgress(write, lambda: (80, 24), colour=True) as progress:
        progress(step("start"))
        assert drawn.wait(60)
        progress(step("done"))
        progress(BuildEvent("warning", "Rule", text="Rule: bad (line 1)"))
    assert "".join(written).startswith("\x1b[?25l")
    assert "\x1b[34m => [2/2] RUN make" in written[-2]
    assert written[-1] == "\n 1 warning found:\n - Rule: bad (line 1)\n\x1b[?25h"


def test_wide_letters_take_two_columns():
    screen = Screen(columns=30)
    progress = LiveProgress(screen.write, lambda: (30, 12), clock=lambda: 0.0)
    progress(BuildEvent("cached", "[1/1] RUN " + "構" * 20))
    assert screen.lines[1] == " => CACHED [1/1] RUN 構構 0.0s"


def test_events_as_json():
    written = []
    with JsonProgress(written.append) as progress:
        progress(step("output", "häh\n"))
    assert json.loads(written[0])["text"] == "häh\n"
    assert (written[0].count("\n"), written[0][-1]) == (1, "\n")


def test_a_pull_in_words():
    from pytest_capsule import TransferEvent

    written = []
    tell = in_words(written.append)
    for event in (
        TransferEvent("1: Pulling from app"),
        TransferEvent("Downloading", "4f4fb700ef54", 0, 2_500_000),
        TransferEvent("Downloading", "4f4fb700ef54", 2_000_000, 2_500_000),
        TransferEvent("Pull complete", "4f4fb700ef54"),
    ):
        tell(event)
    assert written == [
        "1: Pulling from app\n",
        "4f4fb700ef54: Downloading 2.5MB\n",
        "",
        "4f4fb700ef54: Pull complete\n",
    ]


def test_nothing_at_all():
    with Progress() as progress:
        progress(step("start"))


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
