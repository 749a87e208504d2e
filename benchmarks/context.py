"""The builds that are measured, each a folder with a Dockerfile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

BASE = "bench-base"
FILES = 1000
MANY_FILES = 10_000
LARGE = 1 << 30
NOOP_STEPS = 10
LAYERS = 60

TWELVE_STEPS = f"""\
FROM {BASE}
ENV APP=/app
WORKDIR /app
COPY requirements.txt .
RUN cat requirements.txt > installed
COPY src src
RUN mkdir -p /var/lib/app && echo ready > /var/lib/app/state
ENV MODE=production
RUN echo built > built
LABEL purpose=benchmark
EXPOSE 8000
CMD ["/bin/true"]
"""


def twelve_steps(folder: Path) -> None:
    """Twelve steps and a thousand files of 2 kB."""
    _write_modules(folder / "src", FILES)
    (folder / "requirements.txt").write_text("pytest\n")
    (folder / "Dockerfile").write_text(TWELVE_STEPS)


def noop_steps(folder: Path) -> None:
    """Steps that do nothing."""
    (folder / "Dockerfile").write_text(f"FROM {BASE}\n" + "RUN true\n" * NOOP_STEPS)


def many_files(folder: Path) -> None:
    """Ten thousand files of 2 kB."""
    _write_modules(folder / "src", MANY_FILES)
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY src /src\n")


def large_file(folder: Path) -> None:
    """One file of a gigabyte, which nobody can compress."""
    block = os.urandom(1 << 20)
    with (folder / "large").open("wb") as file:
        for number in range(LARGE // len(block)):
            file.write(number.to_bytes(8, "little") + block[8:])
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY large /large\n")


def many_layers(folder: Path) -> None:
    """Sixty steps, each of which writes a small layer."""
    steps = (f"COPY file /file{number}\n" for number in range(LAYERS))
    (folder / "file").write_text("small\n")
    (folder / "Dockerfile").write_text(f"FROM {BASE}\n" + "".join(steps))


CONTEXTS: dict[str, Callable[[Path], None]] = {
    "twelve": twelve_steps,
    "noop": noop_steps,
    "files": many_files,
    "large": large_file,
    "layers": many_layers,
}


def write_context(name: str, parent: Path) -> Path:
    """Write the context of that name into a folder of its own below ``parent``."""
    folder = parent / name
    folder.mkdir()
    CONTEXTS[name](folder)
    return folder


def _write_modules(folder: Path, count: int) -> None:
    for number in range(count):
        file = folder / f"package{number % 40}" / f"module{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"NUMBER = {number}\n" + f"# line of module {number}\n" * 80)
