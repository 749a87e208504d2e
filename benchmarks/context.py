"""The builds that are measured: a Dockerfile of twelve steps with a thousand files, and one whose steps do nothing."""

from __future__ import annotations

from pathlib import Path

BASE = "bench-base"
FILES = 1000
NOOP_STEPS = 10

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

NOOP = f"FROM {BASE}\n" + "RUN true\n" * NOOP_STEPS


def write_contexts(folder: Path) -> tuple[Path, Path]:
    """Write both contexts below ``folder``: that of the twelve steps (about 2 MB) and that of the empty steps."""
    twelve, noop = folder / "twelve", folder / "noop"
    for number in range(FILES):
        file = twelve / "src" / f"package{number % 40}" / f"module{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"NUMBER = {number}\n" + f"# line of module {number}\n" * 80)
    (twelve / "requirements.txt").write_text("pytest\n")
    (twelve / "Dockerfile").write_text(TWELVE_STEPS)
    noop.mkdir()
    (noop / "Dockerfile").write_text(NOOP)
    return twelve, noop
