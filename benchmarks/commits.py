"""``python -m benchmarks.commits``: keep what a container has written as an image, beside ``docker commit``.

Per experiment a container that has written so many small files; each commit is of the same container, but for those
that end it, which are of one that was started to be kept.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pytest_capsule import ContainerSpec, Engine

from .__main__ import ROOTFS, scratch_folder
from .context import BASE
from .measure import Action, Figures, Turns, take_turns, timed
from .report import OURS, table
from .subjects import Absent, Place, dockerd, run_docker

_FILES = (1, 100, 1000)


def _writing(files: int) -> list[str]:
    return ["sh", "-c", f"mkdir /new; for i in $(seq {files}); do echo $i >/new/$i; done; echo done; sleep 600"]


@contextlib.contextmanager
def ours(engine: Engine, image: str, files: int) -> Iterator[Action]:
    """The commit of a container of this engine."""
    with engine.run(image, command=[]) as container:
        container.exec(_writing(files)[2].removesuffix("; sleep 600"), check=True)
        yield timed(container.commit)


def ending(engine: Engine, image: str, files: int) -> Action:
    """The commit that ends a container: each time another."""

    def action() -> float:
        with engine.start(ContainerSpec.of(image, command=[]), to_keep=True) as container:
            container.exec(_writing(files)[2].removesuffix("; sleep 600"), check=True)
            return timed(lambda: container.commit(end=True))()

    return action


@contextlib.contextmanager
def dockers(daemon: Path, files: int) -> Iterator[Action]:
    """The commit of a container of Docker's, by its client."""
    client = shutil.which("docker") or ""
    container = run_docker(daemon, client, "run", "-d", "--network", "none", BASE, *_writing(files)).strip()
    with subprocess.Popen(
        [client, "-H", f"unix://{daemon}", "logs", "-f", container], stdout=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == "done\n"
        logs.kill()
    try:
        yield timed(lambda: run_docker(daemon, client, "commit", "--pause=false", container))
    finally:
        run_docker(daemon, client, "rm", "--force", container)


def main() -> int:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="commits of each (10)")
    rounds = parser.parse_args().rounds
    results: dict[str, dict[str, Figures]] = {}
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(None))
        rootfs = Path(ROOTFS)
        place = Place(rootfs, rootfs.with_name(f"{rootfs.name}.tar"), {}, scratch)
        engine = stack.enter_context(Engine(scratch / "cache"))
        daemon = None
        try:
            daemon, _ = stack.enter_context(dockerd(place, place.room("docker")))
        except Absent as reason:
            absent["docker"] = str(reason)
        for files in _FILES:
            with contextlib.ExitStack() as containers:
                image = f"rootfs:{place.tar}"
                subjects = {
                    OURS: containers.enter_context(ours(engine, image, files)),
                    f"{OURS}, the container ends": ending(engine, image, files),
                }
                if daemon is not None:
                    subjects["docker"] = containers.enter_context(dockers(daemon, files))
                experiment = f"commit, {files} file{'s' * (files > 1)}"
                results[experiment] = take_turns(subjects, dict.fromkeys(subjects, Turns(rounds)))
    print(table(results, absent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
