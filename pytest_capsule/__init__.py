"""A fresh container for every test, in milliseconds.

>>> from pytest_capsule import Engine
>>> with Engine() as engine, engine.run("hello-world") as container:
...     container.wait(timeout=5)
0

Names are imported when they are first used: a pytest run that has no container test pays for none of them, and the
package can be imported where containers cannot run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_capsule import services, wait
    from pytest_capsule.build.events import BuildEvent
    from pytest_capsule.distribution import TransferEvent
    from pytest_capsule.dockerfile.lint import LintResult
    from pytest_capsule.dockerfile.rules import LintWarning
    from pytest_capsule.engine import Engine
    from pytest_capsule.errors import (
        BuildError,
        CapsuleError,
        CapsuleWarning,
        CommandNotFound,
        ContainerError,
        ContainerExited,
        DockerfileError,
        ExecError,
        ExecTimeout,
        ImageNotFound,
        InvalidReference,
        NotReady,
        RegistryError,
        StoreError,
        UnsupportedHost,
        UsageError,
        WaitTimeout,
    )
    from pytest_capsule.factories import container_fixture, image_fixture, network_fixture, service_fixture
    from pytest_capsule.networks import Network
    from pytest_capsule.runtime.changes import Change
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.runtime.process import ExecResult, Process
    from pytest_capsule.spec import Build, ContainerSpec
    from pytest_capsule.store.image import Image
    from pytest_capsule.volumes import Volume

_HOMES = {
    "pytest_capsule.build.events": ("BuildEvent",),
    "pytest_capsule.dockerfile.lint": ("LintResult",),
    "pytest_capsule.dockerfile.rules": ("LintWarning",),
    "pytest_capsule.distribution": ("TransferEvent",),
    "pytest_capsule.engine": ("Engine",),
    "pytest_capsule.errors": (
        "BuildError",
        "CapsuleError",
        "CapsuleWarning",
        "CommandNotFound",
        "ContainerError",
        "ContainerExited",
        "DockerfileError",
        "ExecError",
        "ExecTimeout",
        "ImageNotFound",
        "InvalidReference",
        "NotReady",
        "RegistryError",
        "StoreError",
        "UnsupportedHost",
        "UsageError",
        "WaitTimeout",
    ),
    "pytest_capsule.factories": ("container_fixture", "image_fixture", "network_fixture", "service_fixture"),
    "pytest_capsule.networks": ("Network",),
    "pytest_capsule.runtime.changes": ("Change",),
    "pytest_capsule.runtime.container": ("Container",),
    "pytest_capsule.runtime.process": ("ExecResult", "Process"),
    "pytest_capsule.spec": ("Build", "ContainerSpec"),
    "pytest_capsule.store.image": ("Image",),
    "pytest_capsule.volumes": ("Volume",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Build",
    "BuildError",
    "BuildEvent",
    "CapsuleError",
    "CapsuleWarning",
    "Change",
    "CommandNotFound",
    "Container",
    "ContainerError",
    "ContainerExited",
    "ContainerSpec",
    "DockerfileError",
    "Engine",
    "ExecError",
    "ExecResult",
    "ExecTimeout",
    "Image",
    "ImageNotFound",
    "InvalidReference",
    "LintResult",
    "LintWarning",
    "Network",
    "NotReady",
    "Process",
    "RegistryError",
    "StoreError",
    "TransferEvent",
    "UnsupportedHost",
    "UsageError",
    "Volume",
    "WaitTimeout",
    "container_fixture",
    "image_fixture",
    "network_fixture",
    "service_fixture",
    "services",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name in ("services", "wait"):
        return importlib.import_module(f"pytest_capsule.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
