"""``--secret`` of ``capsule build``."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from pytest_capsule.errors import UsageError


def secret(text: str) -> tuple[str, bytes | Path]:
    """``id=ID`` with ``src=FILE`` or ``env=NAME``, else the variable or the file of that name, as buildx reads it.

    Returns the id with what ``Engine.build(secrets=)`` takes. ``UsageError`` where there is no such variable.
    """
    fields = {}
    for part in next(csv.reader([text]), []):
        key, equals, value = part.partition("=")
        if not equals or key.lower() not in ("id", "src", "source", "env", "type"):
            raise _wrong(text)
        fields["src" if key.lower() == "source" else key.lower()] = value
    name, source, variable = fields.get("id", ""), fields.get("src", ""), fields.get("env", "")
    kind = fields.get("type", "")
    if kind == "env" and not variable:
        variable, source = source or name, ""
    if not name or kind not in ("", "env", "file") or (source and variable):
        raise _wrong(text)
    if not source and not variable and name in os.environ and kind != "file":
        variable = name
    if not variable:
        return name, Path(source or name).expanduser()
    if variable not in os.environ:
        raise UsageError(f"--secret {text}: there is no environment variable {variable}")
    return name, os.environb[os.fsencode(variable)]


def _wrong(text: str) -> UsageError:
    return UsageError(f"--secret {text}: write it id=ID,src=FILE or id=ID,env=NAME")
