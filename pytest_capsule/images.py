"""What an image is called, and how it is found: in the store, built in, or a root filesystem on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_capsule.errors import CapsuleError, ImageNotFound, UsageError
from pytest_capsule.oci.platform import Platform
from pytest_capsule.oci.reference import DEFAULT_DOMAIN, DEFAULT_TAG, Reference
from pytest_capsule.store import host
from pytest_capsule.store.builtin import HELLO_WORLD, hello_world_image, scratch_config
from pytest_capsule.store.image import Image
from pytest_capsule.store.store import Store

DOCKER_FORMAT, FOLDER_FORMAT = "docker-archive", "oci-dir"
"""How ``Engine.save`` writes images."""
_OCI = "oci:"
_DOCKER = f"{DOCKER_FORMAT}:"
_ROOTFS = "rootfs:"
_SCRATCH = "scratch"
_HUB_NAMES = (f"{DEFAULT_DOMAIN}/", f"index.{DEFAULT_DOMAIN}/")


class Images:
    """Finds images. ``foreign`` says that files of the host's root are nobody's inside.

    ``unpack(archive, scratch)`` unpacks a root filesystem's tar into ``scratch / "fs"``; ``find_in_archive`` gives what
    ``oci:PATH`` or ``docker-archive:FILE`` names.
    """

    def __init__(
        self,
        store: Store,
        *,
        foreign: bool,
        unpack: Callable[[Path, Path], None],
        find_in_archive: Callable[[str], Image],
    ) -> None:
        self._store = store
        self._foreign = foreign
        self._unpack = unpack
        self._find_in_archive = find_in_archive
        self._lock = threading.Lock()
        self._host: Image | None = None

    def find(self, reference: str, platform: Platform | None = None) -> Image:
        """The image behind a reference, an id, or a path after ``rootfs:``, ``oci:`` or ``docker-archive:``.

        ``ImageNotFound`` when there is none, or none for ``platform`` (default: whatever it is for).
        """
        found = self._find(reference)
        if platform is None or not found.config.architecture or platform.runs(found.config.platform):
            return found
        if _built_in(reference) == HELLO_WORLD:
            return hello_world_image(self._store, platform)
        if (pulled := self._pulled_for(platform, reference)) is not None:
            return pulled
        raise ImageNotFound(f"{reference} is here for {found.config.platform}, not for {platform}", reference=reference)

    def _find(self, reference: str) -> Image:
        if reference.startswith((_OCI, _DOCKER)):
            return self._find_in_archive(reference)
        if reference.startswith(_ROOTFS):
            return self._rootfs(Path(reference.removeprefix(_ROOTFS)))
        found = self._store.find(reference)
        if found is not None:
            return found
        built_in = _built_in(reference)
        if built_in == HELLO_WORLD:
            return self._hello_world_image()
        if built_in == host.NAME:
            return self._host_image()
        refuse_scratch(reference)
        names = sorted({tag for image in self._store.images() for tag in image.tags} | {HELLO_WORLD, host.NAME})
        raise ImageNotFound(
            f"no image {reference!r} in the store {self._store.root}",
            reference=reference,
            hint=f"build it with a tag, or use one of: {', '.join(names)}",
        )

    def _pulled_for(self, platform: Platform, reference: str) -> Image | None:
        """What was pulled for another platform than this host's, without the name, which is this host's image's."""
        key = self._store.memory(_memory_of(Reference.parse(reference), platform)).get("image")
        try:
            return None if key is None else self._store.get(key)
        except ImageNotFound:  # pruned
            return None

    def keep_pulled_for(self, platform: Platform, reference: Reference, image: Image) -> None:
        """Find ``image`` from now on where ``reference`` is wanted for ``platform``."""
        self._store.remember(_memory_of(reference, platform), {"image": image.key})

    def obtain(
        self, reference: str, when: str, pull: Callable[[Reference], Image], platform: Platform | None = None
    ) -> Image:
        """The image behind a text, pulled ``when`` that is wanted: "missing", "always" or "never"."""
        if when == "always" and (wanted := self.in_registry(reference)) is not None:
            return pull(wanted)
        try:
            return self.find(reference, platform)
        except ImageNotFound as missing:
            if when == "never" or (wanted := self.in_registry(reference)) is None:
                raise
            try:
                return pull(wanted)
            except CapsuleError as error:
                raise ImageNotFound(
                    f"{missing.message}; {error.message}",
                    reference=reference,
                    hint=f"{error.hint}; or {missing.hint}" if error.hint else missing.hint,
                ) from None

    def in_registry(self, reference: str) -> Reference | None:
        """What a registry may have under that text; ``None`` where it means something that can only be here."""
        if reference.startswith((_OCI, _DOCKER, _ROOTFS, "sha256:")) or _built_in(reference):
            return None
        found = self._store.find(reference)
        is_id = found is not None and found.id.startswith(f"sha256:{reference}")
        return None if is_id else Reference.parse(reference)

    def all(self) -> list[Image]:
        """Every image of the store, the newest first; those that are built in have their names, once they were used."""
        names = {}
        if host.is_made(self._store, foreign=self._foreign):
            names[self._host_image().key] = host.NAME
        names[self._hello_world_image().key] = HELLO_WORLD
        found = self._store.images()
        return [self._also_called(image, names[image.key]) if image.key in names else image for image in found]

    def built_in(self) -> set[str]:
        """The keys of the images that are built in and were made."""
        made = host.is_made(self._store, foreign=self._foreign)
        return {self._hello_world_image().key} | ({self._host_image().key} if made else set())

    def _also_called(self, image: Image, name: str) -> Image:
        """An image that is built in with its name, which it may have in the store as well."""
        return image if f"{name}:latest" in image.tags else replace(image, tags=(*image.tags, name))

    def _hello_world_image(self) -> Image:
        return replace(hello_world_image(self._store), tags=(HELLO_WORLD,))

    def _host_image(self) -> Image:
        with self._lock:
            if self._host is None:  # once an engine: what changes meanwhile is the next one's
                self._host = replace(host.host_image(self._store, foreign=self._foreign), tags=(host.NAME,))
            return self._host

    def _rootfs(self, path: Path) -> Image:
        """A root filesystem on disk: a directory is used as it stands, a tar is unpacked into the store once."""
        path = Path(os.path.abspath(path.expanduser()))
        if path.is_dir():
            if self._foreign:
                refuse_foreign(path, shown=f"rootfs:{path}")
            return self._store.put(scratch_config(), (self._store.layer(str(path)),))
        if not path.is_file():
            raise ImageNotFound(f"rootfs:{path}: no such directory or tar", reference=f"{_ROOTFS}{path}")
        from pytest_capsule.archive import unpack

        with path.open("rb") as file:
            if not unpack.is_archive(file):
                raise UsageError(f"rootfs:{path} is neither a directory nor a tar archive")
        info = path.stat()
        state = f"{path} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
        key = "rootfs-" + hashlib.sha256(os.fsencode(state)).hexdigest()
        with self._store.lock(key):
            record = self._store.step(key)
            if record is None:
                with self._store.scratch() as scratch:
                    self._unpack(path, scratch)
                    record = {"layer": self._store.adopt(scratch / "fs").id}
                self._store.keep_step(key, record)
        return self._store.put(scratch_config(), (self._store.layer(record["layer"]),))


def refuse_foreign(path: Path, *, shown: str) -> None:
    """A folder of somebody else's has nobody's files in a container without root."""
    if os.geteuid() != 0 and path.stat().st_uid != os.getuid():
        raise UsageError(
            f"{shown} belongs to another user, whose files are nobody's in a container without root",
            hint=f"pack it as root (tar -C {path} --numeric-owner -cf rootfs.tar .) and use rootfs.tar",
        )


def _memory_of(reference: Reference, platform: Platform) -> str:
    """The name under which the store remembers what a reference means for a platform."""
    return "platform-" + hashlib.sha256(f"{reference} {platform}".encode()).hexdigest()


def refuse_scratch(reference: str) -> None:
    """``ImageNotFound`` for the one name that no image has, here or in a registry."""
    if _built_in(reference) == _SCRATCH:
        raise ImageNotFound(
            "scratch is no image: it is where FROM scratch begins", reference=reference, hint="build FROM it"
        )


def _built_in(text: str) -> str:
    """The name of the image that needs no registry; "" for every other, or where a registry is named with it."""
    reference = Reference.parse(text)
    if reference.digest is not None or text.startswith(_HUB_NAMES):
        return ""
    name = reference.familiar_name
    has_tags = name == host.NAME or reference.tag == DEFAULT_TAG
    return name if name in (HELLO_WORLD, host.NAME, _SCRATCH) and has_tags else ""
