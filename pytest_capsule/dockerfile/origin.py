"""Where an instruction stands, so that every error can name its line."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of an instruction.

    ``line`` and ``end_line`` count from 1 and include heredocs; ``text`` is the first line as it stands in the file;
    ``source`` is the whole instruction joined in one line, as BuildKit shows it in its progress and history.
    """

    path: str = "Dockerfile"
    line: int = 1
    end_line: int = 1
    text: str = ""
    source: str = ""

    def error(self, reason: str, *, hint: str | None = None) -> DockerfileError:
        """Make (not raise) the error that says ``reason`` about this place."""
        return DockerfileError(reason, path=self.path, line=self.line, text=self.text, hint=hint)

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Give this place to every ``DockerfileError`` raised inside that has no line yet."""
        try:
            yield
        except DockerfileError as error:
            if error.line is not None:
                raise
            raise self.error(error.reason, hint=error.hint) from None
