"""What a test's report says of its containers: plain values, gathered while they live, and their words for people."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any

from pytest_capsule.errors import CapsuleError
from pytest_capsule.network.resolver import NAMESERVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_capsule.errors import BuildError
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.session import Start, Unmade

    Facts = dict[str, Any]

_LINES = 50
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_LISTEN, _BOUND = "0A", "07"  # states in /proc/net/tcp and /proc/net/udp
_OURS = ("udp", (53, NAMESERVER))  # init's


def brief(container: Container, start: Start | None) -> Facts:
    """What costs next to nothing to know, so that it can be said of every test."""
    return {
        "name": container.name,
        "id": container.id,
        "image": _image(container, start),
        "status": container.status,
        "exit_code": container.exit_code,
        "signal": container.killed_by,
        "killed_for": container.killed_for,
        "start_seconds": round(start.seconds, 4) if start is not None else None,
        "waited_for": start.waited_for if start is not None else None,
    }


def _image(container: Container, start: Start | None) -> str:
    """What to call its image: by its name, as the marker does, or by its id.

    An id that nobody knows yet is not found out, for that reads all layers through.
    """
    image = container.image
    if image.tags or (start is None and image.digested):
        return str(image)
    return start.image if start is not None else "without a name"


def full(container: Container, start: Start | None) -> Facts:
    """All that helps to see why a test failed; what a container that is gone cannot tell is left out."""
    facts = brief(container, start)
    lines = container.logs().splitlines()
    facts["log_lines"], facts["log"] = len(lines), lines[-_LINES:]
    for name, look in _LOOKS.items():
        with contextlib.suppress(CapsuleError, OSError):
            facts[name] = look(container)
    return facts


def failed_build(error: BuildError, unmade: Unmade | None) -> Facts:
    """What there is to know of an image that could not be built; ``image`` is ``None`` where a test has built it."""
    return {
        "image": None if unmade is None else unmade.image,
        "path": error.path,
        "line": error.line,
        "step": error.step,
        "exit_code": error.exit_code,
        "output": error.output,
        "image_before": error.image,
        "failed_state": error.failed_state,
        "steps": [] if unmade is None else [dict(zip(_STEP, step, strict=True)) for step in unmade.steps],
    }


def sections(facts: Facts) -> Iterator[tuple[str, str]]:
    """The same as sections of a pytest report: titles and texts, fit for a terminal."""
    for title, text in _sections(facts):
        yield title, "\n".join(line.rstrip() for line in _harmless(text).split("\n"))


def build_section(facts: Facts) -> tuple[str, str]:
    """The failing step, and what became of those before; what it printed is in the error itself."""
    code = "" if facts["exit_code"] is None else f": exit code {facts['exit_code']}"
    rows = ((step["state"], f"{step['seconds']:.2f} s", step["name"]) for step in facts["steps"])
    text = f"{facts['path']}:{facts['line']}: {facts['step']}{code}\n{_table(rows)}"
    return f"image {facts['image'] or 'of the test'}: failing build step", _harmless(text.rstrip())


def _harmless(text: str) -> str:
    """What containers have printed and named, in its colours, but without what else a terminal would obey."""
    return "".join(
        part if _COLOUR.fullmatch(part) else "".join(c if c.isprintable() or c in "\t\n" else " " for c in part)
        for part in _COLOUR.split(text)
    )


def _sections(facts: Facts) -> Iterator[tuple[str, str]]:
    title = f"container {facts['name']}"
    yield title, "\n".join((_headline(facts), *facts["log"]))
    if facts.get("health_log"):
        runs = (f"exit code {code}: {said}" if said else f"exit code {code}" for code, said in facts["health_log"])
        yield f"{title}: health", "\n".join(runs)
    if facts.get("processes"):
        rows = [("PID", "USER", "STATUS", "COMMAND"), *([str(p[k]) for k in _COLUMNS] for p in facts["processes"])]
        yield f"{title}: processes", _table(rows)
    if facts.get("ports"):
        yield f"{title}: listening ports", "\n".join(facts["ports"])
    if changes := facts.get("changes"):
        more = [f"and {len(changes) - _LINES} more"] if len(changes) > _LINES else []
        yield f"{title}: changed files", "\n".join((*changes[:_LINES], *more))
    if facts.get("kept"):
        yield f"{title}: kept, open it with", facts["kept"]
    if facts.get("not_kept"):
        yield f"{title}: cannot be kept", facts["not_kept"]


def state(facts: Facts) -> str:
    """In one phrase whether it runs, or how it ended."""
    code, killed_for = facts["exit_code"], facts["killed_for"]
    words: str = facts["status"] if code is None else f"exited with code {code}"
    if words == "created":
        words = "its main process could not be started"
    if facts["signal"]:
        words = f"killed by {facts['signal']} (exit code {code})"
    if killed_for:
        words += f", {'killed' if code == 137 else 'a process in it was killed'}: {killed_for}"
    return words


def _headline(facts: Facts) -> str:
    health = f" ({facts['health']})" if facts.get("health") else ""
    parts = [f"image {facts['image']}", state(facts) + health]
    if facts["waited_for"]:
        parts.append(f"waited {facts['start_seconds']:.2f} s for {facts['waited_for']}")
    if not facts["log"]:
        parts.append("nothing logged")
    elif facts["log_lines"] > len(facts["log"]):
        parts.append(f"the last {len(facts['log'])} of {facts['log_lines']} lines")
    return ", ".join(parts)


def _health(container: Container) -> str | None:
    return container.health() if container.exit_code is None else None


def _health_log(container: Container) -> list[tuple[int, str]]:
    return [(run.exit_code, run.output.strip()) for run in container.health_log]


_STEP = ("name", "state", "seconds")
_COLUMNS = ("pid", "user", "status", "command")


def _processes(container: Container) -> list[Facts]:
    """Those inside but for init, which is ours."""
    return [{**one, "command": " ".join(one["command"]) or one["name"]} for one in container.top()[1:]]


def _ports(container: Container) -> list[str]:
    """Where something listens inside; on the host's network nobody can tell whose a port is."""
    if container.spec.host_network:
        return []
    found = set()
    for protocol, listening in (("tcp", _LISTEN), ("udp", _BOUND)):
        for family in ("", "6"):
            with contextlib.suppress(OSError):  # a kernel without IPv6
                table = container.read_text(f"/proc/1/net/{protocol}{family}").splitlines()[1:]
                rows = (line.split() for line in table)
                found |= {(protocol, _address(row[1])) for row in rows if row[3] == listening}
    found.discard(_OURS)
    return [f"{protocol} {address}:{port}" for protocol, (port, address) in sorted(found)]


def _address(text: str) -> tuple[int, str]:
    """``0100007F:1F90`` of ``/proc/net/tcp``: words of 32 bits in the machine's order, which is little-endian."""
    words, _, port = text.partition(":")
    packed = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    address = ipaddress.ip_address(packed)
    return int(port, 16), f"[{address}]" if address.version == 6 else str(address)


def _changes(container: Container) -> list[str]:
    return [str(change) for change in container.diff()]


_LOOKS = {
    "health": _health,
    "health_log": _health_log,
    "processes": _processes,
    "ports": _ports,
    "changes": _changes,
}


def _table(rows: Iterable[Iterable[str]]) -> str:
    cells = [list(row) for row in rows]
    if not cells:
        return ""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
