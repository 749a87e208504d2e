"""Images into files and out of them, and root filesystems into images: by path, or through a pipe."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Union

from pytest_capsule.archive import layers
from pytest_capsule.build.configuration import changed
from pytest_capsule.errors import ImageNotFound, InvalidReference, MalformedImage, StoreError, UsageError
from pytest_capsule.images import DOCKER_FORMAT, FOLDER_FORMAT, refuse_foreign
from pytest_capsule.oci.config import History, ImageConfig, RunConfig
from pytest_capsule.oci.platform import Platform
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store import loading, saving
from pytest_capsule.store.image import Image, Layer, now
from pytest_capsule.store.packing import Packing
from pytest_capsule.store.store import Store

_PIPE = "-"
Source = Union[str, "os.PathLike[str]", IO[bytes]]


class Archives:
    """What one store loads, saves and imports. ``call`` does the work on layers (``store.packing.Call``)."""

    def __init__(self, store: Store, packing: Packing, call: Callable[..., Any]) -> None:
        self._store = store
        self._packing = packing
        self._call = call

    def load(self, source: Source, *, platform: Platform) -> list[Image]:
        """Every image of an archive or layout, with the names that it has there."""
        with _opened(source) as file:
            loaded = loading.load(file, self._packing, self._store.content, platform=platform)
        for image, found in loaded:
            for name in filter(_is_whole_name, found.names):
                self._store.tag(image, name)
        return [self._store.get(image.key) for image, _ in loaded]

    def find(self, reference: str) -> Image:
        """The image that ``oci:PATH[:tag]`` or ``docker-archive:FILE[:ref]`` names; read again when it has changed."""
        path, wanted = _split(reference)
        stamp = _stamp(path)
        memory = self._store.memory(stamp)
        with contextlib.suppress(KeyError, ImageNotFound, StoreError):
            return self._store.get(memory[wanted])
        with _opened(path) as file:
            content, here = self._store.content, Platform.here()
            loaded = loading.load(file, self._packing, content, platform=here, wanted=wanted)
        images = [image for image, _ in loaded]
        if len({image.key for image in images}) != 1:
            raise ImageNotFound(
                f"{reference} has {len(images)} images",
                reference=reference,
                hint="say which, with :NAME after the path",
            )
        self._store.remember(stamp, {**memory, wanted: images[0].key})
        return images[0]

    def save(self, images: Sequence[tuple[Image, Sequence[str]]], target: Source, *, format: str) -> None:
        """Write images, each with the names that it is to have, as a tar or as a folder."""
        if format not in (DOCKER_FORMAT, FOLDER_FORMAT):
            raise UsageError(f"no such format: {format!r}", hint=f"it is {DOCKER_FORMAT} or {FOLDER_FORMAT}")
        packed = [(image.packed(), names) for image, names in images]
        content = self._store.content
        if format == FOLDER_FORMAT:
            if not isinstance(target, (str, os.PathLike)):
                raise UsageError(f"the format {FOLDER_FORMAT} needs the path of a folder")
            saving.save_folder(packed, Path(target), content)
        elif isinstance(target, (str, os.PathLike)):
            with _replaced(Path(target)) as file:
                saving.save(packed, file, content)
        else:
            saving.save(packed, target, content)

    def import_rootfs(self, source: Source, *, changes: Sequence[str] = (), message: str = "") -> Image:
        """A root filesystem as an image of one layer: a folder, or a tar, which may be compressed."""
        run = changed(RunConfig(), changes)
        shown = os.fspath(source) if isinstance(source, (str, os.PathLike)) else _PIPE
        layer = self._import_layer(source, shown)
        platform = Platform.here()
        entry = History(created=now(), comment=message or f"Imported from {shown}")
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created=entry.created,
            config=run,
            history=(entry,),
        )
        return self._store.put(config, (layer,))

    def _import_layer(self, source: Source, shown: str) -> Layer:
        with self._store.scratch() as scratch:
            tree = scratch / "fs"
            with _opened(source) as file:
                if isinstance(file, Path):
                    refuse_foreign(file, shown=shown)
                    found = self._call(layers.__name__, "copy_tree", str(file), str(tree))
                else:
                    blob = scratch / "tar"
                    with blob.open("wb") as target:
                        shutil.copyfileobj(file, target, 1 << 20)
                    found = self._call(layers.__name__, "unpack_layer", str(blob), str(tree), {})
            if "broken" in found:
                named = "stdin" if shown == _PIPE else shown
                raise MalformedImage(found["broken"], document=named, hint="import takes the tar of a root filesystem")
            return self._store.adopt(tree)


@contextlib.contextmanager
def _opened(source: Source) -> Any:
    """A file to read, or the path of a folder."""
    if not isinstance(source, (str, os.PathLike)):
        yield source
        return
    if not os.fspath(source):
        raise UsageError("no file is named", hint="name a file or a folder")
    path = Path(source)
    if path.is_dir():
        yield path.absolute()
        return
    try:
        file = path.open("rb")
    except OSError as error:
        hint = f"fetch it first: curl -L {source} | capsule import - ..." if _is_url(source) else ""
        raise UsageError(f"{source} cannot be read: {error.strerror}", hint=hint) from None
    with file:
        yield file


@contextlib.contextmanager
def _replaced(path: Path) -> Any:
    """A file to write that takes its place when the block ends without an error.

    A pipe or a device (``/dev/stdout``) is written to where it is, and a link goes on leading to what it led to.
    """
    place = Path(os.path.realpath(path))
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:
                yield file
            return
        with new.open("xb") as file:
            yield file
        os.replace(new, place)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)


def _is_url(source: Source) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _is_whole_name(name: str) -> bool:
    """Whether a name of an archive names more than a tag in it."""
    if "/" not in name and ":" not in name:
        return False
    try:
        Reference.parse(name)
    except InvalidReference:
        return False
    return True


def _split(reference: str) -> tuple[Path, str]:
    """The path and the name after it; either may have colons in it, so what exists decides."""
    text = reference.partition(":")[2]
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        path = Path(":".join(parts[:count])).expanduser()
        if path.exists():
            return Path(os.path.abspath(path)), ":".join(parts[count:])
    raise ImageNotFound(f"{reference}: no such file or folder", reference=reference)


def _stamp(path: Path) -> str:
    """Where the store remembers what an archive holds, for as long as it does not change."""
    file = path / "index.json" if path.is_dir() else path
    try:
        info = file.stat()
    except FileNotFoundError:
        raise ImageNotFound(f"{path} is no OCI layout: it has no index.json", reference=str(path)) from None
    state = f"{path} {info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
    return "archive-" + hashlib.sha256(os.fsencode(state)).hexdigest()
