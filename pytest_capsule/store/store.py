"""The image store on disk.

::

    layers/ID/fs/             a layer in overlay form: the files themselves
    layers/ID/layer.json      its size, where it came from, and what it looked like when it was made
    layers/ID/packed.json     its tar: diff_id, and the blob that has it
    images/HEX.json           an image: config, layers, host directories, manifest; or the id that it has now
    blobs/ALGORITHM/HEX       manifests, configs and layers as registries and archives have them
    begun/blob-ALGORITHM-HEX  what a download has of a blob, for the next one to go on
    references/NAME           the id that a reference names; NAME is its text, percent-encoded
    steps/KEY.json            what a build step gave: the cache
    memory/HASH.json          content digests of a build context's files, by inode and times
    tmp/ENGINE/claims/        what one engine uses, and nobody may remove
    tmp/ENGINE/               what one engine is working on; goes with it, or with the next engine's start
    tmp/ENGINE.lock           held while that engine lives
    locks/                    one lock file for each thing that two processes could make at once

Every file appears by a rename, so whoever is killed when leaves a store that opens clean. What one process makes and
another could make too is made under a ``filelock``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import urllib.parse
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pytest_capsule.errors import ImageNotFound, InvalidReference, MalformedImage, StoreError, UsageError
from pytest_capsule.oci.config import ImageConfig
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store import trees
from pytest_capsule.store.claims import Claims
from pytest_capsule.store.content import Content
from pytest_capsule.store.image import Image, Layer, Packed, Packer, identify
from pytest_capsule.store.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FOLDERS = ("layers", "images", "references", "steps", "memory", "blobs", "begun", "tmp", "locks", "blank", "empty")
# Empty files and directories at the very bottom of every root filesystem, to mount on: no image needs to have them, and
# none gets them in a layer of its own.
_MOUNT_POINTS = ("proc", "sys", "dev", "etc")
_MOUNT_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
_CLAIMS = "claims"
_ID = re.compile("[0-9a-f]{4,64}")
# The mode of lock files. Of one that others could write to, filelock first makes sure that it can lock.
_PRIVATE = 0o600


def _at_once(call: Callable[[], object]) -> None:
    call()


class Store:
    """One store, opened for one engine.

    ``call`` runs a function of ``store.trees`` where files of all owners may be touched: here, or in the supervisor's
    user namespace.
    """

    def __init__(self, root: Path, *, call: Callable[..., Any] = trees.call) -> None:
        self.root = root
        self._call = call
        self.closed = False
        self._layers = Kept(self._read_layer)
        self._records = Kept(self._read_record)
        self._tags = Kept(self._read_tags)
        self.packer: Callable[[], Packer] = _NoPacker
        """Gives what finds out the digests of its images (``store.packing``), when somebody asks for one."""
        try:
            for folder in _FOLDERS:
                (root / folder).mkdir(parents=True, exist_ok=True)
            # Nobody else may reach into it: images have setuid programs and, as root, devices (CVE-2021-41091).
            root.chmod(0o700)
            self._lay_mount_points()
            self._own = self._claim()
            self.claims = Claims(root / "tmp", self._own, root / "locks" / "in-use")
            self.content = Content(root / "blobs", self._own, root / "begun", self.claims, self.lock)
        except OSError as error:
            raise StoreError(
                f"the image store {root} cannot be used: {error.strerror} ({error.filename})",
                path=str(root),
                hint="choose another folder with --cache-dir (of pytest: --capsule-cache-dir) or CAPSULE_CACHE_DIR",
            ) from None

    def _lay_mount_points(self) -> None:
        for name in _MOUNT_POINTS:
            (self.blank / name).mkdir(exist_ok=True)
        for name in _MOUNT_FILES:
            (self.blank / name).touch(exist_ok=True)
        for folder in (self.empty, self.blank, *(self.blank / name for name in _MOUNT_POINTS)):
            folder.chmod(0o755)  # a root filesystem begins with these, whatever this process' umask is
        for name in _MOUNT_FILES:
            (self.blank / name).chmod(0o644)
        with contextlib.suppress(FileExistsError):
            (self.blank / "etc/mtab").symlink_to("/proc/mounts")  # as in Docker: old programs read it

    def _claim(self) -> Path:
        own = self.root / "tmp" / secrets.token_hex(8)
        self._alive = FileLock(f"{own}.lock", mode=_PRIVATE)
        with self.lock(_CLAIMS):
            self._alive.acquire(timeout=0)
        own.mkdir()
        (own / "mnt").mkdir()
        return own

    @property
    def blank(self) -> Path:
        """The layer at the very bottom of a root filesystem in which commands run: what is mounted on is there."""
        return self.root / "blank"

    @property
    def empty(self) -> Path:
        """The layer at the bottom of one in which files are only placed: a copy of it has nothing but what is its."""
        return self.root / "empty"

    @property
    def mountpoint(self) -> Path:
        """An empty folder on which this engine's containers mount what is theirs, each in a namespace of its own."""
        return self._own / "mnt"

    def collect(self) -> None:
        """Remove what engines that were killed have left in ``tmp``."""
        for left in self._abandoned():
            folder = left.lock_file.removesuffix(".lock")
            with contextlib.suppress(OSError):  # what cannot be removed now is tried again next time
                self._call("remove", folder)
                os.unlink(left.lock_file)
            left.release()

    def _abandoned(self) -> list[FileLock]:
        """The locks of engines that do not live any more, now held here, so that nobody else collects the same."""
        found = []
        with self.lock(_CLAIMS):  # a new engine's lock file is there for a moment before it is held
            for path in (self.root / "tmp").glob("*.lock"):
                lock = FileLock(path, mode=_PRIVATE)
                with contextlib.suppress(Timeout, OSError):
                    lock.acquire(timeout=0)
                    found.append(lock)
        return found

    def close(self) -> None:
        """Remove this engine's own folder."""
        self.closed = True
        with contextlib.suppress(OSError):  # what another thread still makes in it goes when the next engine starts
            self._call("remove", str(self._own))
            os.unlink(f"{self._own}.lock")
        self._alive.release()

    @contextlib.contextmanager
    def lock(self, name: str, *, timeout: float = -1) -> Iterator[None]:
        """Hold the lock ``name`` against every other thread and process on this store.

        ``TimeoutError`` after ``timeout`` seconds of waiting; by default there is no end to it.
        """
        with FileLock(self.root / "locks" / name, timeout, mode=_PRIVATE, thread_local=False):
            yield

    # -- layers ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scratch(self, later: Callable[[Callable[[], object]], None] = _at_once) -> Iterator[Path]:
        """A folder of this engine to make a layer in; what is left in it when the block ends is removed.

        ``later`` is given what removes it when all went well, to call it soon. ``StoreError`` when the disk is full.
        """
        folder = self._own / secrets.token_hex(8)
        folder.mkdir()
        remove = partial(self._call, "remove", str(folder))
        try:
            yield folder
        except BaseException as error:
            remove()  # at once: there may be no room left to write down what went wrong
            if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreError(
                f"the disk of the image store {self.root} is full",
                path=str(self.root),
                hint="make room, for example with: capsule prune",
            ) from None
        later(remove)

    def adopt(self, tree: Path, *, origin: str = "") -> Layer:
        """Make the directory ``tree`` a layer of the store, by rename: nothing is copied."""
        name = secrets.token_hex(16)
        self._use(name)
        size, stamp = self.measure(tree)
        record = {"size": size, "origin": origin, "stamp": stamp, "opaque": trees.is_opaque(str(tree))}
        packed = tree.parent / f"layer-{name}"
        packed.mkdir()
        self._call("move", str(tree), str(packed / "fs"))
        (packed / "layer.json").write_text(json.dumps(record))
        os.rename(packed, self.root / "layers" / name)
        return self.layer(name)

    def measure(self, tree: Path) -> tuple[int, str]:
        """The bytes of all files beneath a folder, whoever owns them, and what is called the stamp of a layer."""
        size, stamp = self._call("measure", str(tree))
        return size, stamp

    def state(self, folder: str) -> tuple[str, int]:
        """What shows whether anything beneath a folder of the host has changed, and when something last did."""
        digest, changed = self._call("state", folder)
        return digest, changed

    def date(self, tree: Path, seconds: int, *, older: bool) -> None:
        """Let what lies in ``tree`` be no later than that time (since 1970), and with ``older`` no earlier either."""
        self._call("set_times" if older else "clamp_times", str(tree), str(seconds))

    def layer(self, name: str, *, use: bool = True) -> Layer:
        """The layer of that name; one named by a path is a directory of the host.

        With ``use``, it stays for as long as this engine.
        """
        if name.startswith("/"):
            return Layer(name, name)
        if use:
            self._use(name)
        folder = self._layer_path(name)
        try:
            return self._layers.of(folder / "layer.json")
        except FileNotFoundError:
            message = f"layer {name} is missing from the store"
            raise StoreError(message, path=str(folder), hint="build it anew") from None

    def _read_layer(self, path: Path) -> Layer:
        record = _parsed(path, path.read_bytes(), "size")
        folder = path.parent
        return Layer(
            folder.name,
            str(folder / "fs"),
            record["size"],
            record.get("origin", ""),
            record.get("stamp", ""),
            record.get("opaque", False),
        )

    def _use(self, *names: str) -> bool:
        """Have them stay for as long as this engine; whether any did not before."""
        fresh = self.claims.take(map(claim_of_layer, names))
        for name in names:
            if claim_of_layer(name) in fresh:
                with contextlib.suppress(FileNotFoundError):  # when it was used last
                    os.utime(self._layer_path(name) / "layer.json")
        return bool(fresh)

    def _layer_path(self, name: str) -> Path:
        return self.root / "layers" / name

    def tar_of(self, layer: Layer) -> dict[str, Any] | None:
        """What is known of a layer's tar: ``diff_id``; of a blob that has it, ``digest``, ``size``, ``media_type``."""
        return self._read(self._layer_path(layer.id) / "packed.json", "diff_id")

    def keep_tar(self, layer: Layer, record: dict[str, Any]) -> None:
        """Remember which blob has the layer's tar."""
        self._write(self._layer_path(layer.id) / "packed.json", record)

    # -- images ---------------------------------------------------------------------------------------------------

    def put(
        self,
        config: ImageConfig,
        layers: tuple[Layer, ...],
        host_directories: tuple[str, ...] = (),
        *,
        manifest: Digest | None = None,
        config_digest: Digest | None = None,
    ) -> Image:
        """Keep an image; the same parts give the same image.

        ``config_digest`` is known of one that came from outside, or was asked for its id; its ``manifest``, if it has
        one, is in ``content``.
        """
        if config_digest is None:  # what its base image said of its own layers is not what it would say
            config = replace(config, diff_ids=())
        image_id = str(config_digest) if config_digest else identify(config, layers, host_directories)
        if manifest is None:
            with contextlib.suppress(ImageNotFound):
                return self.get(image_id)
        record = {
            "config": json.loads(config.to_json()),
            "layers": [layer.id for layer in layers],
            "host_directories": list(host_directories),
            "digested": config_digest is not None,
        }
        self._write(self._image_path(image_id), record | ({"manifest": str(manifest)} if manifest else {}))
        return self.get(image_id)

    def known_id(self, image: Image) -> str:
        """The digest of the image's config, if somebody has asked for it before; else ""."""
        with contextlib.suppress(ImageNotFound):
            record = self._record(image.key)
            return record.id if record.digested else ""
        return ""

    def holds(self, image: Image) -> bool:
        """Whether it is there still: somebody may have removed it since it was found."""
        return self._image_path(image.key).exists()

    def rename(self, image: Image, digest: Digest) -> None:
        """Let an image go by the digest of its config from now on; its former key goes on naming it."""
        if image.key == str(digest):
            return
        self._write(self._image_path(image.key), {"id": str(digest)})
        for tag in self._tags_of(image.key):
            self._replace(self._reference_path(Reference.parse(tag)), str(digest).encode())

    def made(self, image: Image) -> int:
        """When its record was written, in nanoseconds since 1970."""
        return self._image_path(self._record(image.key).id).stat().st_mtime_ns

    def manifest_of(self, image: Image) -> Digest | None:
        """The digest of its manifest, if it has one in ``content``."""
        manifest = self._record(image.key).manifest
        return Digest.parse(manifest) if manifest else None

    def get(self, image_id: str, *, use: bool = True) -> Image:
        """The image with that full id. With ``use``, its layers stay for as long as this engine."""
        record = self._record(image_id)
        if use and self._use(*(name for name in record.layers if not name.startswith("/"))):
            record = self._record(image_id)  # somebody may have removed it before its layers were in use
        return Image(
            record.id,
            record.config,
            tuple(self.layer(name, use=use) for name in record.layers),
            self.packer,
            record.host_directories,
            self._tags_of(record.id),
            digested=record.digested,
        )

    def _record(self, image_id: str) -> _Record:
        """An image's record, with the id that it goes by now."""
        try:
            record = self._records.of(self._image_path(image_id))
        except FileNotFoundError:
            raise ImageNotFound(f"no image {image_id} in the store", reference=image_id) from None
        return self._record(record) if isinstance(record, str) else record

    def _read_record(self, path: Path) -> _Record | str:
        """What is written in ``images``; of a former id, the one that the image has now."""
        record = _parsed(path, path.read_bytes())
        if record.keys() == {"id"}:
            return str(record["id"])
        if not record.keys() >= {"config", "layers", "host_directories"}:
            raise _damaged(path, "it lacks config, layers or host_directories")
        try:
            config = ImageConfig.from_json(json.dumps(record["config"]).encode())
        except MalformedImage as error:
            raise _damaged(path, error.message) from None
        return _Record(
            f"sha256:{path.stem}",
            config,
            tuple(record["layers"]),
            tuple(record["host_directories"]),
            record.get("manifest", ""),
            record.get("digested", False),
        )

    def find(self, text: str) -> Image | None:
        """The image that a reference, an id or the beginning of an id names; ``UsageError`` where several begin so."""
        digits = text.removeprefix("sha256:")
        if not _ID.fullmatch(digits):
            return self._named(text)
        if digits == text and len(digits) < 64:  # a name may look like the beginning of an id, and then comes first
            named = self._named(text)
            if named is not None:
                return named
        found = sorted(path.stem for path in (self.root / "images").glob(f"{digits}*.json"))
        if len(found) > 1:
            raise UsageError(
                f"{text} is the beginning of {len(found)} image ids",
                hint=f"write more of it: {', '.join(digits[:12] for digits in found)}",
            )
        return self.get(f"sha256:{found[0]}") if found else None

    def _named(self, text: str) -> Image | None:
        with contextlib.suppress(FileNotFoundError):
            return self.get(self._reference_path(Reference.parse(text)).read_text())
        return None

    def images(self) -> list[Image]:
        """All images, the newest first."""
        ages = {}
        for path in (self.root / "images").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile, by another process
                ages[path.stem] = path.stat().st_mtime_ns
        found = []
        for digits in sorted(ages, key=ages.__getitem__, reverse=True):
            with contextlib.suppress(ImageNotFound):
                if self._record(f"sha256:{digits}").id == f"sha256:{digits}":  # else a former key of another
                    found.append(self.get(f"sha256:{digits}", use=False))
        return found

    def _image_path(self, image_id: str) -> Path:
        return self.root / "images" / f"{image_id.removeprefix('sha256:')}.json"

    # -- references -----------------------------------------------------------------------------------------------

    def tag(self, image: Image, reference: str) -> Image:
        """Let ``reference`` name ``image``."""
        path = self._reference_path(Reference.parse(reference))
        image_id = self._record(image.key).id
        if not path.exists() or path.read_text() != image_id:  # to replace a file costs more than to read it
            self._replace(path, image_id.encode())
        return self.get(image.key)

    def untag(self, reference: str) -> bool:
        """Forget a reference; whether there was one."""
        with contextlib.suppress(FileNotFoundError, InvalidReference):
            self._reference_path(Reference.parse(reference)).unlink()
            return True
        return False

    def remove(self, image: Image) -> None:
        """Forget an image and its references; its layers and blobs stay for other images and the cache."""
        image_id = self._record(image.key).id
        for tag in self._tags_of(image_id):
            self.untag(tag)
        for former in self._former_ids(image_id):
            self._image_path(former).unlink(missing_ok=True)
        self._image_path(image_id).unlink(missing_ok=True)
        (self.root / "memory" / f"{_digests_of(image_id)}.json").unlink(missing_ok=True)

    def is_former(self, image_id: str) -> bool:
        """Whether it is what an image went by before its id was asked for."""
        return (self._read(self._image_path(image_id)) or {}).keys() == {"id"}

    def forget_former_ids(self) -> None:
        """Forget the former ids of images that are not there any more."""
        for path in (self.root / "images").glob("*.json"):
            record = self._read(path) or {}
            if self.is_former(f"sha256:{path.stem}") and not self._image_path(record["id"]).exists():
                path.unlink(missing_ok=True)

    def _former_ids(self, image_id: str) -> list[str]:
        found = []
        for path in (self.root / "images").glob("*.json"):
            with contextlib.suppress(StoreError):
                if self._read(path) == {"id": image_id}:
                    found.append(f"sha256:{path.stem}")
        return found

    def _tags_of(self, image_id: str) -> tuple[str, ...]:
        return self._tags.of(self.root / "references").get(image_id, ())

    def _read_tags(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """All references, by the id that they name."""
        found: dict[str, list[str]] = {}
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError, InvalidReference):  # gone meanwhile, or none of ours
                found.setdefault(path.read_text(), []).append(Reference.parse(urllib.parse.unquote(path.name)).familiar)
        return {image_id: tuple(sorted(tags)) for image_id, tags in found.items()}

    def _reference_path(self, reference: Reference) -> Path:
        return self.root / "references" / urllib.parse.quote(str(reference.exact), safe="")

    def note_digest(self, config: Digest, name: str) -> None:
        """Remember what an image is in a registry: ``NAME@DIGEST`` of its manifest, or of the index that has it."""
        known = self.digests(str(config))
        if name not in known:
            self.remember(_digests_of(str(config)), {"names": [*known, name]})

    def digests(self, image_id: str) -> list[str]:
        """All that is remembered of the image with that id."""
        return list(self.memory(_digests_of(image_id)).get("names", []))

    # -- the cache of build steps, and what contexts hold -----------------------------------------------------------

    def step(self, key: str) -> dict[str, Any] | None:
        """What the step with that cache key gave, if its layer is still there."""
        record = self._read(self.root / "steps" / f"{key}.json", "layer")
        if record is None or not record["layer"]:
            return record
        self._use(record["layer"])
        return record if self._layer_path(record["layer"]).is_dir() else None

    def steps(self) -> list[tuple[str, str]]:
        """Every key with the layer that its step gave, "" for none."""
        found = []
        for path in (self.root / "steps").glob("*.json"):
            with contextlib.suppress(StoreError):
                record = self._read(path, "layer")
                if record is not None:
                    found.append((path.stem, record["layer"] or ""))
        return found

    def has_steps(self, prefix: str) -> bool:
        """Whether any key begins so."""
        return any((self.root / "steps").glob(f"{prefix}*.json"))

    def forget_step(self, key: str) -> None:
        """Let the step be carried out anew."""
        (self.root / "steps" / f"{key}.json").unlink(missing_ok=True)

    def keep_step(self, key: str, record: dict[str, Any]) -> None:
        """Remember what a step gave."""
        self._write(self.root / "steps" / f"{key}.json", record)

    def memory(self, name: str) -> dict[str, Any]:
        """What was remembered under ``name``; nothing when there is nothing."""
        return self._read(self.root / "memory" / f"{name}.json") or {}

    def remember(self, name: str, value: dict[str, Any]) -> None:
        """Remember ``value`` under ``name``."""
        self._write(self.root / "memory" / f"{name}.json", value)

    # -- files ----------------------------------------------------------------------------------------------------

    def _read(self, path: Path, *fields: str) -> dict[str, Any] | None:
        try:
            return _parsed(path, path.read_bytes(), *fields)
        except FileNotFoundError:
            return None

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        self._replace(path, json.dumps(value, separators=(",", ":")).encode())

    def _replace(self, path: Path, data: bytes) -> None:
        new = self._own / f"new-{secrets.token_hex(8)}"
        try:
            new.write_bytes(data)
            os.rename(new, path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}", path=str(path)) from None


@dataclass(frozen=True, slots=True)
class _Record:
    """What the store has written down of an image; ``manifest`` is a digest, or "" where there is none."""

    id: str
    config: ImageConfig
    layers: tuple[str, ...]
    host_directories: tuple[str, ...]
    manifest: str
    digested: bool


class _NoPacker:
    """Of a store that is used on its own."""

    def identify(self, image: Image) -> str:
        return image.key

    def pack(self, image: Image) -> Packed:
        raise StoreError(f"image {image.key} cannot be packed: its store has no packer", path="")


def claim_of_layer(name: str) -> str:
    """The name under which an engine claims a layer."""
    return f"layer-{name}"


def _digests_of(image_id: str) -> str:
    return f"digests-{image_id.removeprefix('sha256:')}"


def _parsed(path: Path, data: bytes, *fields: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        raise _damaged(path, "it is not JSON") from None
    if not isinstance(value, dict) or not value.keys() >= set(fields):
        raise _damaged(path, f"it lacks {', '.join(fields) or 'its fields'}")
    return value


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {reason}", path=str(path), hint="remove that file; what it was for is made anew"
    )
