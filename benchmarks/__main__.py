"""Measure and print; ``python -m benchmarks --help`` says what can be chosen."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .context import CONTEXTS, FILES, LAYERS, MANY_FILES, NOOP_STEPS, write_context
from .measure import Figures, Turns, take_turns
from .report import document, table
from .subjects import SUBJECTS, Absent, Actions, Place

ROOTFS = "/var/cache/pytest-capsule-ci/debian-bookworm"
SLOW = frozenset({"docker", "docker-buildkit", "docker-legacy", "buildah"})
"""Subjects of which one time a round is enough: each takes a hundred times as long as the others."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One question: the workload that answers it, how often it is asked, and how many parts one time counts for."""

    title: str
    workload: str
    turns: Turns
    parts: int = 1


def experiments(rounds: int, build_rounds: int) -> dict[str, Experiment]:
    """All experiments, by the name that ``--only`` takes."""
    builds = Turns(build_rounds)
    return {
        "start": Experiment("start, exec, gone: one after another", "start", Turns(rounds, burst=10)),
        "spaced": Experiment("start, exec, gone: 5 ms between", "start", Turns(rounds, burst=10, pause=0.005)),
        "exec": Experiment("exec in a running container", "exec", Turns(rounds, burst=10)),
        "cached": Experiment(f"12-step build, {FILES:,} files: fully cached", "twelve cached", Turns(rounds)),
        "cold": Experiment(f"12-step build, {FILES:,} files: cold", "twelve cold", builds),
        "noop": Experiment("a step that does nothing: cold", "noop cold", builds, NOOP_STEPS),
        "files": Experiment(f"COPY of {MANY_FILES:,} files: cold", "files cold", builds),
        "files-cached": Experiment(f"COPY of {MANY_FILES:,} files: cached", "files cached", builds),
        "large": Experiment("COPY of a file of 1 GiB: cold", "large cold", Turns(1)),
        "large-cached": Experiment("COPY of a file of 1 GiB: cached", "large cached", builds),
        "layers": Experiment(f"{LAYERS} layers: cold", "layers cold", Turns(1)),
        "layers-cached": Experiment(f"{LAYERS} layers: cached", "layers cached", builds),
    }


def main() -> int:
    """Set every subject up, measure the experiments, print the table."""
    options = _options()
    if not options.rootfs.is_dir() or not _tar_of(options.rootfs).is_file():
        print(f"benchmarks: no Debian at {options.rootfs}; make it with: sudo scripts/make-debian-rootfs")
        return 2
    results: dict[str, dict[str, Figures]] = {}
    absent: dict[str, str] = {}
    with scratch_folder(options.scratch) as scratch, ExitStack() as stack:
        known = experiments(options.rounds, options.build_rounds)
        chosen = [known[name] for name in options.only]
        (scratch / "contexts").mkdir()
        wanted = {"noop", *(experiment.workload.split()[0] for experiment in chosen)} & CONTEXTS.keys()
        contexts = {name: write_context(name, scratch / "contexts") for name in wanted}
        place = Place(options.rootfs, _tar_of(options.rootfs), contexts, scratch)
        standing = _set_up(options.subjects, place, stack, absent)
        for experiment in chosen:
            print(f"measuring: {experiment.title}", file=sys.stderr, flush=True)
            results[experiment.title] = _measure(experiment, standing)
    print(table(results, absent))
    if options.json:
        options.json.write_text(json.dumps(document(results, absent), indent=1) + "\n")
    return 0


def _options() -> argparse.Namespace:
    names = list(experiments(1, 1))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of what is quick; ten times in each (10)")
    parser.add_argument("--build-rounds", type=int, default=3, help="rounds of the cold builds (3)")
    parser.add_argument("--only", type=_names(names), default=names, help=f"some of {','.join(names)}")
    subjects = list(SUBJECTS)
    parser.add_argument("--subjects", type=_names(subjects), default=subjects, help=f"some of {','.join(subjects)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time taken to FILE")
    rootfs = Path(os.environ.get("CAPSULE_TEST_ROOTFS", ROOTFS))
    parser.add_argument("--rootfs", type=Path, default=rootfs, help="the Debian from scripts/make-debian-rootfs")
    parser.add_argument("--scratch", type=Path, help="where subjects keep their state: a disk, about 12 GB (a tempdir)")
    return parser.parse_args()


class _names:  # noqa: N801 - a type of argparse, which shows its name
    def __init__(self, known: list[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        words = text.split(",")
        if wrong := [word for word in words if word not in self._known]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: choose from {', '.join(self._known)}")
        return words


def _tar_of(rootfs: Path) -> Path:
    return rootfs.with_name(rootfs.name + ".tar")


def _set_up(names: list[str], place: Place, stack: ExitStack, absent: dict[str, str]) -> dict[str, Actions]:
    standing: dict[str, Actions] = {}
    for name in names:
        try:
            standing[name] = stack.enter_context(SUBJECTS[name](place))
        except Absent as reason:
            absent[name] = str(reason)
    return standing


def _measure(experiment: Experiment, standing: dict[str, Actions]) -> dict[str, Figures]:
    able = {name: actions[experiment.workload] for name, actions in standing.items() if experiment.workload in actions}
    turns = {name: replace(experiment.turns, burst=1) if name in SLOW else experiment.turns for name in able}
    figures = take_turns(able, turns)
    return {name: Figures([s / experiment.parts for s in taken.seconds]) for name, taken in figures.items()}


@contextmanager
def scratch_folder(where: Path | None) -> Iterator[Path]:
    """Room for the subjects, gone at the end with all that they have left mounted there."""
    path = Path(tempfile.mkdtemp(prefix="capsule-bench-", dir=where))
    try:
        yield path
    finally:
        # A runtime that failed half-way leaves mounts of its own behind.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{path}/")), reverse=True):
            subprocess.run(["umount", mount], check=False, capture_output=True)
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():  # files of an ordinary user's subordinate ids, which only their user namespace may remove
            subprocess.run(["unshare", "--map-root-user", "--map-auto", "rm", "-rf", path], check=False)


if __name__ == "__main__":
    sys.exit(main())
