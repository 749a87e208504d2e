"""The benchmarks run and report; what they measure is nobody's promise here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def benchmarks(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True)


def test_a_run_prints_a_table_and_writes_every_time_taken(debian_rootfs: Path, debian_tar: Path, tmp_path: Path):
    file = tmp_path / "figures.json"
    words = ["--rootfs", str(debian_rootfs), "--scratch", str(tmp_path), "--rounds", "2", "--json", str(file)]

    done = benchmarks("--subjects", "host", "--only", "exec", *words)

    assert done.returncode == 0, done.stderr
    assert "exec in a running container" in done.stdout
    measured = json.loads(file.read_text())["experiments"]["exec in a running container"]["host"]
    assert len(measured["times_ms"]) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_subject_that_is_not_here_is_named_with_the_reason(debian_rootfs: Path, debian_tar: Path, tmp_path: Path):
    code = (
        "import runpy, shutil\n"
        "shutil.which = lambda *names, **more: None\n"
        "runpy.run_module('benchmarks', run_name='__main__')\n"
    )
    words = ["--rootfs", str(debian_rootfs), "--scratch", str(tmp_path), "--subjects", "crun", "--only", "start"]

    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)

    assert "not measured: crun: not installed" in done.stdout, done.stderr


def test_an_unknown_subject_is_refused():
    done = benchmarks("--subjects", "capsul")

    assert done.returncode == 2
    assert "capsul: choose from capsule" in done.stderr


def test_the_suite_says_what_a_container_test_costs():
    words = [sys.executable, "-m", "benchmarks.suite", "--tests", "3", "--rounds", "1"]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "a container test costs" in done.stdout
    assert re.search(r"two workers are \d+\.\d\d times as fast as one", done.stdout)


def test_the_ports_are_measured_beside_no_relay_at_all():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ports", "--rounds", "1", "--megabytes", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["direct", "connect", "published"]
