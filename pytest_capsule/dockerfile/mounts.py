"""``RUN --mount`` and ``RUN --device``.

Source: ``commands_runmount.go`` and ``commands_rundevice.go`` in BuildKit's ``frontend/dockerfile/instructions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_capsule.dockerfile.scalars import parse_bool, parse_csv, parse_size, parse_unsigned
from pytest_capsule.dockerfile.text import did_you_mean, quote
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES: Final = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARINGS: Final = ("shared", "private", "locked")
_KEYS: Final = (
    "type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw",
    "required", "size", "id", "sharing", "mode", "uid", "gid", "env",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """What one ``--mount`` asks for.

    ``type`` is ``bind``, ``cache``, ``tmpfs``, ``secret`` or ``ssh``; ``from_`` a stage or image, empty for the build
    context; ``size`` the bytes of a tmpfs, 0 for no limit; ``id`` and ``sharing`` (``shared``, ``private``, ``locked``,
    or empty: shared) belong to caches and secrets; ``env`` names the variable for a secret (empty: named after its
    id), ``None`` for no variable. ``mode``, ``uid`` and ``gid`` are ``None`` where not given.
    """

    type: str = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """What one ``--device`` asks for: a CDI device's name, and whether the build fails without it."""

    name: str
    required: bool = False


def mount_source(text: str) -> str:
    """The ``from`` of an unexpanded ``--mount``, or an empty string. It may hold no variable: stages depend on it."""
    from_ = ""
    for field in _fields(text, "mounts"):
        key, equals, value = field.partition("=")
        if equals and key.lower() == "from":
            if "$" in value[:-1]:
                raise DockerfileError("'from' doesn't support variable expansion, define alias stage instead")
            from_ = value
    return from_


def parse_mount(text: str, expand_word: Callable[[str], str]) -> Mount:
    """Read a ``--mount``, each of its values expanded; raise ``DockerfileError`` where BuildKit refuses."""
    reader = _MountReader()
    for field in _fields(text, "mounts"):
        key, equals, value = field.partition("=")
        if equals:
            reader.set(key.lower(), expand_word(value), field)
        else:
            reader.switch(key.lower(), field)
    return reader.finish()


def parse_device(text: str) -> Device:
    """Read a ``--device``: ``vendor.com/class=name,required``."""
    name = ""
    required = False
    for field in _fields(text, "devices"):
        key, equals, value = field.partition("=")
        if key.lower() == "required":
            required = parse_bool("required", value) if equals else True
        elif key.lower() == "name" and equals:
            if name:
                raise DockerfileError(f"device name already set to {name}")
            name = value
        elif name and not equals:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")
        elif name:
            raise DockerfileError(f"unexpected key '{key}' in '{field}'", hint="known here: name, required")
        else:
            name = field
    return Device(name, required)


def _fields(text: str, what: str) -> list[str]:
    try:
        return parse_csv(text)
    except DockerfileError as error:
        raise DockerfileError(f"failed to parse csv {what}: {error.reason}") from None


class _MountReader:
    def __init__(self) -> None:
        self._type = "bind"
        self._read_only: bool | None = None
        self._texts = dict.fromkeys(("from", "source", "target", "id", "sharing"), "")
        self._numbers: dict[str, int] = {}
        self._required = False
        self._size = 0
        self._env: str | None = None

    def switch(self, key: str, field: str) -> None:
        if key in ("readonly", "ro", "readwrite", "rw"):
            self._read_only = key in ("readonly", "ro")
        elif key == "required":
            self._check_type(key, "secret", "ssh")
            self._required = True
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair", hint=did_you_mean(key, _KEYS))

    def set(self, key: str, value: str, field: str) -> None:
        if key == "type":
            self._type = _one_of(value, _TYPES, "mount type")
        elif key == "sharing":
            self._texts[key] = _one_of(value, _SHARINGS, "sharing value")
        elif key in ("src", "dst", "destination"):
            self._texts["source" if key == "src" else "target"] = value
        elif key in self._texts:
            self._texts[key] = value
        elif key in ("readonly", "ro"):
            self._read_only = parse_bool(key, value)
        elif key in ("readwrite", "rw"):
            self._read_only = not parse_bool(key, value)
        elif key == "required":
            self._check_type(key, "secret", "ssh")
            self._required = parse_bool(key, value)
        elif key == "size":
            self._check_type(key, "tmpfs")
            self._size = parse_size(key, value)
        elif key in ("mode", "uid", "gid"):
            self._numbers[key] = parse_unsigned(key, value, base=8 if key == "mode" else 10)
        elif key == "env":
            self._env = value
        else:
            raise DockerfileError(f"unexpected key '{key}' in '{field}'", hint=did_you_mean(key, _KEYS))

    def _check_type(self, key: str, *types: str) -> None:
        # As in BuildKit, the type counts that stands before the key: required,type=secret is refused.
        if self._type not in types:
            raise DockerfileError(f"unexpected key '{key}' for mount type '{self._type}'", hint="write type= first")

    def finish(self) -> Mount:
        kind, texts = self._type, self._texts
        for key in self._numbers:
            if kind in ("bind", "tmpfs"):
                raise DockerfileError(f"{key} not allowed for {quote(kind)} type mounts")
        if kind == "secret":
            self._check_secret()
        if texts["sharing"] and kind != "cache":
            raise DockerfileError(f"invalid cache sharing set for {kind} mount")
        read_only = kind not in ("cache", "tmpfs") if self._read_only is None else self._read_only
        return Mount(
            type=kind,
            from_=texts["from"],
            source=texts["source"],
            target=texts["target"],
            read_only=read_only,
            size=self._size,
            id=texts["id"],
            sharing=texts["sharing"],
            required=self._required,
            env=self._env,
            mode=self._numbers.get("mode"),
            uid=self._numbers.get("uid"),
            gid=self._numbers.get("gid"),
        )

    def _check_secret(self) -> None:
        texts = self._texts
        if texts["from"]:
            raise DockerfileError("secret mount should not have a from")
        if texts["sharing"]:
            raise DockerfileError("secret mount should not define sharing")
        if not (texts["source"] or texts["target"] or texts["id"]):
            raise DockerfileError("invalid secret mount. one of source, target required")
        if texts["source"] and texts["id"]:
            raise DockerfileError("both source and id can't be set")


def _one_of(value: str, known: tuple[str, ...], what: str) -> str:
    if value.lower() not in known:
        hint = did_you_mean(value, known) or f"one of {', '.join(known)}"
        raise DockerfileError(f"unsupported {what} {quote(value)}", hint=hint)
    return value.lower()
