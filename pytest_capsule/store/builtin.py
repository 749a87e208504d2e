"""The images that are there with no download: ``scratch`` and ``hello-world``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_capsule.oci.config import History, ImageConfig, RunConfig
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.hello_world import HELLO_WORLD_PATH, hello_world_elf

if TYPE_CHECKING:
    from pytest_capsule.store.image import Image
    from pytest_capsule.store.store import Store

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HELLO_WORLD = "hello-world"


def scratch_config(platform: Platform | None = None) -> ImageConfig:
    """What ``FROM scratch`` begins with (default: for this host): no layer, and the default PATH, as in BuildKit."""
    platform = platform or Platform.here()
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        config=RunConfig(env=(f"PATH={DEFAULT_PATH}",), working_dir="/"),
    )


def hello_world_image(store: Store, platform: Platform | None = None) -> Image:
    """The smallest image that says something (default: on this host): one static program of a few hundred bytes."""
    config = scratch_config(platform)
    program = hello_world_elf(config.architecture)
    key = f"hello-world-{config.architecture}"
    with store.lock(key):
        record = store.step(key)
        if record is None:
            with store.scratch() as scratch:
                tree = scratch / "fs"
                tree.mkdir(mode=0o755)
                tree.chmod(0o755)
                path = tree / HELLO_WORLD_PATH.lstrip("/")
                path.write_bytes(program)
                path.chmod(0o755)
                os.utime(path, (0, 0))
                layer = store.adopt(tree, origin=key)
            record = {"layer": layer.id}
            store.keep_step(key, record)
    copied = History(created_by=f"COPY hello {HELLO_WORLD_PATH} # built in")
    config = replace(config.with_config(cmd=(HELLO_WORLD_PATH,)), history=(copied,))
    config = config.with_history(History(created_by=f'CMD ["{HELLO_WORLD_PATH}"]', empty_layer=True))
    return store.put(config, (store.layer(record["layer"]),))
