"""What one pytest session has: its engine, its options, and the images that its markers have named so far."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_capsule.engine import Engine
from pytest_capsule.spec import Build, ContainerSpec
from pytest_capsule.store.image import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_capsule.build.events import BuildEvent
    from pytest_capsule.runtime.container import Container


def cache_dir(config: pytest.Config) -> str | None:
    """Where images are kept: command line, then ini (relative to its own folder), then environment."""
    given: str | None = config.getoption("capsule_cache_dir")
    if given:
        return str(config.invocation_params.dir / given)
    written: str = config.getini("capsule_cache_dir")
    if written:
        return str((config.inipath.parent if config.inipath else config.rootpath) / Path(written).expanduser())
    return os.environ.get("CAPSULE_CACHE_DIR")


class CapsuleSession:
    """Starts the containers of markers and factories."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.engine = Engine(cache_dir(config))
        self._no_cache: bool = config.getoption("capsule_no_cache")
        self._lock = threading.Lock()
        self._images: dict[object, Image] = {}

    def image(self, spec: ContainerSpec, folders: Sequence[Path]) -> Image:
        """The image of a spec; what a marker names is built once a session, anew with ``--capsule-no-cache``."""
        if isinstance(spec.image, Image):
            return spec.image
        if spec.build is None:
            chosen = self.config.hook.pytest_capsule_resolve_image(reference=spec.image)
            return self.engine.image(spec.image if chosen is None else chosen)
        build = spec.build if isinstance(spec.build, Build) else Build(spec.build)
        key = (
            *(str(part) for part in (build.context, build.dockerfile, build.target, build.tag, *folders, spec.target)),
            *sorted(build.build_args.items()),
            *sorted(spec.build_args.items()),
        )
        with self._lock:
            if key not in self._images:
                self._images[key] = self.engine.resolve(
                    spec, folders=folders, no_cache=self._no_cache, progress=self._tell
                )
            return self._images[key]

    def start(self, spec: ContainerSpec, folders: Sequence[Path]) -> Container:
        """Start a container."""
        image = self.image(spec, folders)
        return self.engine.start(
            spec.with_changes(image=image, build=None, target=None, build_args={}), folders=folders
        )

    def _tell(self, event: BuildEvent) -> None:
        self.config.hook.pytest_capsule_build_event(event=event)
