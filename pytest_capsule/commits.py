"""What a container has written, as a layer on its image."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_capsule.build.configuration import changed
from pytest_capsule.oci.config import History, RunConfig
from pytest_capsule.store.image import Image, Layer, now
from pytest_capsule.store.store import Store

if TYPE_CHECKING:
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.stacking import Stacking, Writable

Written = Callable[[], "Layer | None"]


def commit(
    store: Store,
    container: Container,
    written: Written,
    *,
    command: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    change: Sequence[str] = (),
) -> Image:
    """The image of a container as it is now; ``written`` makes a layer of what it has written.

    ``command`` and ``env`` are the image's, then come the instructions of ``change``: Docker's ``--change``.
    """
    base: Image = container.image
    run = _configured(base.config.config, command, env or {}, change)  # what is wrong with it is told before the work
    layer = written()
    created = now()
    entry = History(created=created, created_by=" ".join(container.command), empty_layer=layer is None)
    config = replace(base.config, config=run, history=(*base.config.history, entry), created=created)
    return store.put(config, (*base.layers, layer) if layer else base.layers, base.host_directories)


def _configured(
    run: RunConfig, command: Sequence[str] | None, env: Mapping[str, str], change: Sequence[str]
) -> RunConfig:
    for name, value in env.items():
        run = run.with_env(name, str(value))
    if command is not None:
        run = replace(run, cmd=tuple(command))
    return changed(run, change)


def copied(store: Store, container: Container, *, end: bool) -> Layer | None:
    """What a container has written, ``None`` for nothing; it may go on, with files that are not those of the layer."""
    with store.scratch() as scratch:
        tree = scratch / "fs"
        tree.mkdir(mode=0o755)
        tree.chmod(0o755)
        directory = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with container.stilled():  # as Docker pauses it: a database has no half of a write in one of its files
                entries = container.export(directory)
        finally:
            os.close(directory)
        if end:
            container.close()
        return store.adopt(tree) if entries else None


def moved(store: Store, container: Container, stacking: Stacking, writable: Writable) -> Layer | None:
    """The same by a rename: nobody writes there any more, since the container ends before."""
    stacking.gather(container, writable.folder)
    with writable.disk.pop_all():
        container.close()
        stacking.settle(container.image.tree, writable.folder)
        tree = writable.folder / "fs"
        return store.adopt(tree) if any(tree.iterdir()) else None
