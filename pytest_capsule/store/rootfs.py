"""From an image to the directories that an overlay stacks."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pytest_capsule._linux import constants, syscalls
from pytest_capsule.store.image import visible

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_capsule.store.image import Tree


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)  # or a link, or hidden from this user


def lower_directories(tree: Tree, bottom: Path) -> dict[str, tuple[str, ...]]:
    """The directories of each overlay of ``tree``, topmost first, by the path at which it is mounted.

    One at ``/``: the layers, over ``bottom`` (``Store.blank`` for a container that runs something, ``Store.empty`` for
    one that only places files). And one for each directory that comes from the host: the layers' own version of it,
    then the host's. They are overlays of their own because the kernel refuses ``lowerdir=/`` beside layers on the same
    filesystem (ELOOP: they overlap).
    """
    layers = [layer.path for layer in visible(tree.layers)]
    found = {"/": (*layers, str(bottom))}
    for directory in tree.host_directories:
        found[directory] = (*(layer + directory for layer in layers if _has(layer, directory)), directory)
    return found


def _has(layer: str, directory: str) -> bool:
    """Whether a directory is in the layer itself: a link in it could lead anywhere on this machine."""
    wanted = os.O_PATH | os.O_DIRECTORY
    try:
        root = os.open(layer, wanted | os.O_CLOEXEC)
        try:
            os.close(syscalls.openat2(root, directory.lstrip("/"), wanted, resolve=constants.RESOLVE_NO_SYMLINKS))
        finally:
            os.close(root)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return False
    return True
