"""What a container test costs over an empty one under pytest, with the next container made ahead and without.

``python -m benchmarks.suite``: the same test, whose body takes 10 ms, is run by pytest as often in each of three ways,
in turns. A test's time is all of it, from setup to teardown, as ``pytest_runtest_protocol`` sees it.
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
import json, time
import pytest

times = []

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    begin = time.perf_counter()
    result = yield
    times.append(time.perf_counter() - begin)
    return result

def pytest_sessionfinish(session):
    (session.config.rootpath / "times.json").write_text(json.dumps(times))
"""
NOT_AHEAD = """
def pytest_capsule_spec(item, spec):  # something may change what a marker asks for, so nothing is made ahead
    return spec
"""


def main() -> int:
    """Run the suites in turns and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--tests", type=int, default=100, help="tests in each run (100)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument("--image", default="capsule/host", help="what the containers are of (capsule/host)")
    options = parser.parse_args()
    figures = {name: Figures() for name in TESTS}
    with tempfile.TemporaryDirectory(prefix="capsule-bench-") as scratch:
        for _ in range(options.rounds):
            for name, taken in figures.items():
                taken.seconds.extend(_times(Path(scratch), name, options.tests, options.image))
    print(table({f"{options.tests * options.rounds} tests of 10 ms": figures}, {}))
    empty = figures["an empty test"].median
    for name in list(TESTS)[1:]:
        print(f"{name} costs {(figures[name].median - empty) * 1e3:.2f} ms over an empty one")
    return 0


def _times(scratch: Path, name: str, count: int, image: str) -> list[float]:
    """Seconds of each test of one pytest run, but for the first, which makes the session's engine."""
    folder = scratch / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST + (NOT_AHEAD if "ahead" in name else ""))
    (folder / "test_it.py").write_text(TEST.format(image=image, count=count, test=TESTS[name], body=BODY))
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--capsule-cache-dir={scratch}/cache"]
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.suite: pytest failed\n{done.stdout}{done.stderr}")
    times: list[float] = json.loads((folder / "times.json").read_text())
    return times[1:]


if __name__ == "__main__":
    sys.exit(main())
