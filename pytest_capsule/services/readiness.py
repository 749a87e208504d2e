"""When a service is ready: it says in its own protocol that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.wait import Observation

if TYPE_CHECKING:
    from pytest_capsule.wait import Container, Deadline

_LONGEST = 5.0  # seconds to wait for one answer


@dataclass(frozen=True, slots=True)
class Answers:
    """Ready when what ``port`` says to ``question`` begins with ``expected``; without one, when it says anything.

    ``name`` is that of the protocol.
    """

    name: str
    port: int
    question: bytes = b""
    expected: bytes = b""

    def check(self, container: Container, deadline: Deadline) -> Observation:
        """Ask once."""
        where = f"{self.name} on port {self.port}"
        try:
            with container.connect(self.port, timeout=min(deadline.left(), _LONGEST)) as sock:
                sock.sendall(self.question)
                said = sock.recv(64)
        except OSError as error:
            return Observation(False, f"no {where}: {error.strerror or error}")
        ready = bool(said) and said.startswith(self.expected)
        return Observation(ready, f"{where} said {said!r}" if said else f"{where} hung up")

    def __str__(self) -> str:
        return f"{self.name} on port {self.port}"
