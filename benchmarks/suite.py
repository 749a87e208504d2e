"""What a container test costs over an empty one under pytest, with the next container made ahead and without.

``python -m benchmarks.suite``: the same test, whose body takes 10 ms, is run by pytest as often in each of three ways,
in turns. A test's time is all of it, from setup to teardown, as ``pytest_runtest_protocol`` sees it.

Then the suite of container tests is run by one worker of pytest-xdist and by two, in turns: how many times as fast are
two, from the first test's begin to the last one's end?
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .measure import Figures
from .report import table

BODY = "import time; time.sleep(0.01)"
TESTS = {
    "an empty test": "def test_it(turn):",
    "a container test": "def test_it(turn, container):",
    "the same, none made ahead": "def test_it(turn, container):",
}
TEST = """
import pytest

@pytest.mark.container({image!r}, command=[])
@pytest.mark.parametrize("turn", range({count}))
{test}
    {body}
"""
CONFTEST = """
import json, os, time
import pytest

times = []  # when each test began, and when it had ended

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    begin = time.monotonic()
    result = yield
    times.append((begin, time.monotonic()))
    return result

def pytest_sessionfinish(session):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    (session.config.rootpath / f"times-{worker}.json").write_text(json.dumps(times))
"""
NOT_AHEAD = """
def pytest_capsule_spec(item, spec):  # something may change what a marker asks for, so nothing is made ahead
    return spec
"""


def main() -> int:
    """Run the suites in turns and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--tests", type=int, default=300, help="tests in each run (300)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument("--image", default="capsule/host", help="what the containers are of (capsule/host)")
    options = parser.parse_args()
    figures = {name: Figures() for name in TESTS}
    spans = {1: Figures(), 2: Figures()}
    with tempfile.TemporaryDirectory(prefix="capsule-bench-") as scratch:
        for _ in range(options.rounds):
            for name, taken in figures.items():
                times = _times(Path(scratch), name, options.tests, options.image)
                taken.seconds.extend(end - begin for begin, end in times[1:])  # the first makes the session's engine
            for workers, span in spans.items():
                name = "a container test"
                times = _times(Path(scratch), name, options.tests, options.image, f"-n{workers}")
                span.seconds.append(max(end for _, end in times) - min(begin for begin, _ in times))
    print(table({f"{options.tests * options.rounds} tests of 10 ms": figures}, {}))
    empty = figures["an empty test"].median
    for name in list(TESTS)[1:]:
        print(f"{name} costs {(figures[name].median - empty) * 1e3:.2f} ms over an empty one")
    print(f"two workers are {spans[1].median / spans[2].median:.2f} times as fast as one")
    return 0


def _times(scratch: Path, name: str, count: int, image: str, *options: str) -> list[tuple[float, float]]:
    """When each test of one pytest run began and ended, in seconds."""
    folder = scratch / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST + (NOT_AHEAD if "ahead" in name else ""))
    (folder / "test_it.py").write_text(TEST.format(image=image, count=count, test=TESTS[name], body=BODY))
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--capsule-cache-dir={scratch}/cache", *options]
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.suite: pytest failed\n{done.stdout}{done.stderr}")
    return [one for path in folder.glob("times-gw*.json" if options else "times-alone.json") for one in _taken(path)]


def _taken(path: Path) -> list[tuple[float, float]]:
    """The times in a file, which is read once."""
    taken: list[tuple[float, float]] = json.loads(path.read_text())
    path.unlink()
    return taken


if __name__ == "__main__":
    sys.exit(main())
