"""``python -m benchmarks.pull``: one image pulled and unpacked, beside podman; its layer unpacked, beside ``tar -x``.

The image is the Debian of scripts/make-debian-rootfs as one gzip'd layer, in a docker-registry on the loopback. Each
pull begins with an empty store. ``tar`` has the layer in a file already, as what is measured as unpacking alone has.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pytest_capsule import Engine
from pytest_capsule.archive.unpack import unpack

from .__main__ import ROOTFS, scratch_folder
from .measure import Action, Turns, take_turns, timed
from .report import OURS, table


@contextmanager
def registry(scratch: Path) -> Iterator[str]:
    """A docker-registry; gives its host and port."""
    config = scratch / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {scratch}/registry\nhttp:\n  addr: 127.0.0.1:0\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    try:
        lines = (re.search(r"listening on (127\.0\.0\.1:\d+)", line) for line in process.stderr)
        host = next(found[1] for found in lines if found)
        threading.Thread(target=process.stderr.read, daemon=True).start()  # else its log fills the pipe, and it stops
        yield host
    finally:
        process.kill()
        process.wait()


def pulling(name: str, scratch: Path, stack: ExitStack) -> dict[str, Action]:
    """Every subject that is here, each from nothing to an unpacked image; what it made goes outside of the time."""
    found = {OURS: _afresh(lambda room: _pull_here(name, room), scratch)}
    if shutil.which("podman"):
        runroot = tempfile.mkdtemp()  # podman refuses a long one
        stack.callback(shutil.rmtree, runroot, ignore_errors=True)
        found["podman"] = _afresh(lambda room: _pull_with_podman(name, room, runroot), scratch)
    return found


def unpacking(blob: Path, scratch: Path) -> dict[str, Action]:
    """From a compressed layer in a file to its files."""
    return {
        OURS: _afresh(lambda room: _unpack_here(blob, room), scratch),
        "tar -x": _afresh(lambda room: _run("tar", "-xzf", str(blob), "--numeric-owner", "-C", str(room)), scratch),
    }


def _afresh(work: Callable[[Path], object], scratch: Path) -> Action:
    """In a folder of its own each time, which stays to the end.

    For minutes after many files were removed ext4 is several times as slow at making new ones: it passes over their
    inodes one by one (``recently_deleted`` in fs/ext4/ialloc.c). TMPDIR on a tmpfs leaves that out altogether.
    """

    def action() -> float:
        room = Path(tempfile.mkdtemp(dir=scratch))
        return timed(lambda: work(room))()

    return action


def _pull_here(name: str, room: Path) -> None:
    with Engine(room) as engine:
        engine.pull(name)


def _unpack_here(blob: Path, room: Path) -> None:
    root = os.open(room, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(blob, "rb") as file:
            unpack(file, root)
    finally:
        os.close(root)


def _pull_with_podman(name: str, room: Path, runroot: str) -> None:
    _run(
        *("podman", "--root", f"{room}/root", "--runroot", runroot, "--tmpdir", f"{room}/tmp"),
        *("--storage-driver", "overlay", "--events-backend", "none", "pull", "-q", "--tls-verify=false", name),
    )


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Push the image, take turns, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pull", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each (3)")
    parser.add_argument("--rootfs", type=Path, default=Path(os.environ.get("CAPSULE_TEST_ROOTFS", ROOTFS)))
    options = parser.parse_args()
    with scratch_folder(None) as scratch, registry(scratch) as host, ExitStack() as stack:
        name = f"{host}/debian:1"
        with Engine(scratch / "builder") as engine:
            image = engine.image(f"rootfs:{options.rootfs}.tar")
            engine.push(image, name)
            digest = image.packed().manifest.layers[0].digest
            blob = engine.cache_dir / "blobs" / digest.algorithm / digest.hex
            unpackers = unpacking(blob, scratch)
            pullers = pulling(name, scratch, stack)
            experiments = {
                "unpack a layer of Debian": unpackers,
                "pull and unpack Debian": {**pullers, "tar -x of its layer": unpackers["tar -x"]},
            }
            results = {
                title: take_turns(subjects, dict.fromkeys(subjects, Turns(options.rounds)))
                for title, subjects in experiments.items()
            }
    print(table(results, {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
