"""One call of the command line: its options, and the engine that they ask for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.engine import Engine

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True, slots=True)
class Invocation:
    """``options`` are what ``cli.parser`` read."""

    options: argparse.Namespace

    def engine(self) -> Engine:
        """An engine on the cache that ``--cache-dir``, ``CAPSULE_CACHE_DIR`` or the default names.

        ``CAPSULE_CACHE_LIMIT`` is its limit.
        """
        environment = os.environ
        return Engine(
            self.options.cache_dir or environment.get("CAPSULE_CACHE_DIR"),
            cache_limit=environment.get("CAPSULE_CACHE_LIMIT") or None,
        )
