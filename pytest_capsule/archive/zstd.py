"""Where zstd comes from: Python has it from 3.14 on, and the extra ``zstd`` brings the same module to older ones."""

from __future__ import annotations

import importlib.util
import os


def folders() -> list[str]:
    """Where a Python that looks in its own library only finds it: nothing to add where it has it itself, or none."""
    if importlib.util.find_spec("_zstd") is not None:
        return []
    try:
        found = importlib.util.find_spec("backports.zstd")
    except ModuleNotFoundError:  # there are no backports of anything
        return []
    if found is None or found.origin is None:
        return []
    return [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(found.origin))))]
