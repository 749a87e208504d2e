"""What is decided of a container when its init is forked, while it is still blank: a part of its spec."""

from __future__ import annotations

from typing import Any

from pytest_capsule._linux import capabilities

PLAIN: dict[str, Any] = {
    "privileged": False,
    "host_network": False,
    "capabilities": sorted(capabilities.DEFAULT),
}
"""As nearly every container wants it."""
AT_THE_HOST: dict[str, Any] = {**PLAIN, "host_network": True}
"""The same as a RUN of a build wants it, which is on the host's network."""
