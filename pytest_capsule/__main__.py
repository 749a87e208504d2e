"""``python -m pytest_capsule`` is the ``capsule`` command."""

from __future__ import annotations

import sys

from pytest_capsule.cli import main

if __name__ == "__main__":
    sys.exit(main())
