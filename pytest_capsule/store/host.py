"""``capsule/host``: this machine's own userland as an image, so that a suite can start anywhere, offline.

What comes from the host as it stands: ``/usr``, ``/opt``, ``/bin``, ``/sbin`` and ``/lib*`` where they are no links
into ``/usr``, and the running Python where it lives elsewhere. They are shown through overlays, so nothing is copied
and nothing of the host can be written. What is copied once: the world-readable files of ``/etc``. Everything else is
empty: never ``/home``, ``/root``, ``/tmp`` or ``/var/run``.

Without root the host's files belong to nobody inside, and the kernel refuses to copy up what belongs to nobody
(EOVERFLOW). A directory of the base layer's own, empty, over each of the host's makes creating, replacing and deleting
work all the same; what stays impossible is to change a file of the host in place, or to rename it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from typing import TYPE_CHECKING

from pytest_capsule.errors import UnsupportedHost
from pytest_capsule.oci.config import ImageConfig, RunConfig
from pytest_capsule.oci.platform import Platform
from pytest_capsule.store.builtin import DEFAULT_PATH

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_capsule.store.image import Image
    from pytest_capsule.store.store import Store

NAME = "capsule/host"
_STEP = "host-"
_SYSTEM = ("/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_EMPTY = {
    **dict.fromkeys(
        "boot home media mnt run srv var var/cache var/lib var/lib/dpkg var/log var/mail var/opt var/spool".split(),
        0o755,
    ),
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}
# Whatever installs software for the whole machine touches one of these.
_PACKAGE_STATE = (
    "/var/lib/dpkg/status",
    "/var/lib/rpm",
    "/usr/lib/sysimage/rpm",
    "/lib/apk/db/installed",
    "/var/lib/pacman/local",
    "/usr/local/bin",
    "/usr/local/lib",
    "/opt",
)


def host_image(store: Store, *, foreign: bool) -> Image:
    """The image of this machine as it is now. ``foreign``: the host's files belong to ids that are not ours inside."""
    shown = directories()
    _refuse_homes(shown)
    key = _key(shown, foreign=foreign)
    with store.lock(key):
        record = store.step(key)
        if record is None:
            with store.scratch() as scratch:
                base = scratch / "fs"
                _lay_base(base, shown, foreign=foreign)
                layer = store.adopt(base, origin=key)
            record = {"layer": layer.id}
            store.keep_step(key, record)
    return store.put(_config(), (store.layer(record["layer"]),), shown)


def is_made(store: Store, *, foreign: bool) -> bool:
    """Whether ``host_image`` would find its base layer in the store."""
    if not store.has_steps(_STEP):  # of this machine at any time: then what it is like now need not be looked at
        return False
    return store.step(_key(directories(), foreign=foreign)) is not None


def _key(directories: tuple[str, ...], *, foreign: bool) -> str:
    return f"{_STEP}{_state(directories, foreign=foreign)}"


def directories() -> tuple[str, ...]:
    """The directories of this machine that the image shows."""
    found = [path for path in _SYSTEM if os.path.isdir(path) and not os.path.islink(path)]
    for prefix in (sys.base_prefix, sys.base_exec_prefix, sys.prefix):
        path = os.path.realpath(prefix)
        if path != "/" and not any(_is_in(path, other) for other in found):
            found.append(path)
    return tuple(found)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _refuse_homes(directories: tuple[str, ...]) -> None:
    """What a home holds is never shown: ``UnsupportedHost`` where the running Python has no folder of its own."""
    homes = ("/home", "/root", os.path.realpath(os.path.expanduser("~")))
    for path in directories:
        if path not in _SYSTEM and any(_is_in(home, path) for home in homes):
            raise UnsupportedHost(
                f"{NAME} would show all of {path}, since the running Python lives there",
                hint="make the virtual environment in a folder of its own, such as .venv",
            )


def _config() -> ImageConfig:
    platform = Platform.here()
    binaries = os.path.dirname(sys.executable)
    path = DEFAULT_PATH if binaries in DEFAULT_PATH.split(":") else f"{binaries}:{DEFAULT_PATH}"
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        config=RunConfig(env=(f"PATH={path}",), cmd=(shell,), working_dir="/"),
    )


def _state(directories: tuple[str, ...], *, foreign: bool) -> str:
    """A digest that changes when a package of the machine or of the running Python, or a file of ``/etc`` does."""
    digest = hashlib.sha256(repr((directories, foreign)).encode())
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    for path in (*_PACKAGE_STATE, *directories, *packages):
        digest.update(_stamp(path))
    for folder, _, names in os.walk("/etc"):
        digest.update(_stamp(folder))
        for name in sorted(names):
            digest.update(_stamp(os.path.join(folder, name)))
    return digest.hexdigest()


def _stamp(path: str) -> bytes:
    try:
        info = os.lstat(path)
    except OSError:
        return f"{path} -\n".encode("utf-8", "surrogateescape")
    return f"{path} {info.st_ino} {info.st_mtime_ns} {info.st_size} {info.st_mode}\n".encode("utf-8", "surrogateescape")


def _lay_base(base: Path, directories: tuple[str, ...], *, foreign: bool) -> None:
    base.mkdir(mode=0o755)
    base.chmod(0o755)
    for name, mode in _EMPTY.items():
        (base / name).mkdir()
        (base / name).chmod(mode)
    for path in _SYSTEM:
        if os.path.islink(path):
            os.symlink(os.readlink(path), f"{base}{path}")
    for directory in directories:
        _make_way(base, directory)
        if foreign:
            _copy_directories(directory, f"{base}{directory}")
    _copy_etc(base)


def _make_way(base: Path, directory: str) -> None:
    """The way to a directory of the host, open to every user inside (the running Python may live beneath ``/root``)."""
    here = base
    for part in directory.strip("/").split("/"):
        here = here / part
        here.mkdir(exist_ok=True)
        if not here.stat().st_mode & stat.S_IXOTH:
            here.chmod(0o711)
        elif here.stat().st_mode & 0o777 != 0o755:
            here.chmod(here.stat().st_mode | 0o755)


def _copy_directories(source: str, target: str) -> None:
    """The directories beneath ``source``, empty; one that may not be read hides the host's instead of failing later."""
    try:
        with os.scandir(source) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except PermissionError:
        os.setxattr(target, "user.overlay.opaque", b"y")
        return
    for name in names:
        here = f"{target}/{name}"
        mode = stat.S_IMODE(os.lstat(f"{source}/{name}").st_mode) | 0o700
        os.mkdir(here, mode)
        if stat.S_IMODE(os.lstat(here).st_mode) != mode:
            os.chmod(here, mode)
        _copy_directories(f"{source}/{name}", here)


def _copy_etc(base: Path) -> None:
    for folder, names, files in os.walk("/etc"):
        target = f"{base}{folder}"
        os.makedirs(target, exist_ok=True)
        names[:] = [name for name in names if _is_public_directory(f"{folder}/{name}", target, name)]
        for name in files:
            source = f"{folder}/{name}"
            info = os.lstat(source)
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(source), f"{target}/{name}")
            elif stat.S_ISREG(info.st_mode) and info.st_mode & stat.S_IROTH:
                shutil.copyfile(source, f"{target}/{name}")
                shutil.copystat(source, f"{target}/{name}")


def _is_public_directory(path: str, target: str, name: str) -> bool:
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(path), f"{target}/{name}")
        return False
    return info.st_mode & (stat.S_IROTH | stat.S_IXOTH) == stat.S_IROTH | stat.S_IXOTH
