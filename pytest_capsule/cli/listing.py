"""What ``--format`` says of a list: a table of some columns, JSON, or a line of a template for each row.

Source: docker/cli, ``command/formatter``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_capsule.cli.table import table
from pytest_capsule.cli.template import Template, to_json

_TABLE = "table"
_JSON = "json"
_ESCAPES = {r"\t": "\t", r"\n": "\n"}
Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listing:
    """How rows are printed. ``titles`` heads each field; ``columns`` are templates of one cell each, empty where a row
    is printed by ``line``, or as JSON where there is neither.
    """

    titles: Mapping[str, str]
    columns: Sequence[Template] = ()
    line: Template | None = None
    is_plain: bool = False
    """Whether nothing but the usual table was asked for."""

    @classmethod
    def parse(cls, format: str, titles: Mapping[str, str], usual: Sequence[str]) -> Listing:
        """Read a ``--format``; ``usual`` are the fields that a table has."""
        text = format.strip()
        for written, meant in _ESCAPES.items():
            text = text.replace(written, meant)
        if text in ("", _TABLE):
            return cls(titles, [Template.parse(f"{{{{.{name}}}}}") for name in usual], is_plain=True)
        if text == _JSON:
            return cls(titles)
        if re.match(rf"{_TABLE}\s", text):
            return cls(titles, [Template.parse(cell) for cell in text[len(_TABLE) :].strip().split("\t")])
        return cls(titles, line=Template.parse(text))

    def print(self, rows: Sequence[Row]) -> None:
        """Print them."""
        if self.columns:
            header = [column.render(self.titles) for column in self.columns]
            print(table(header, [[column.render(row) for column in self.columns] for row in rows]))
            return
        for row in rows:
            print(self.line.render(row) if self.line else to_json(dict(sorted(row.items()))))
