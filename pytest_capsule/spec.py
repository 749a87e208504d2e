"""What a marker, a fixture factory or ``Engine.run`` asks for: values, under Docker's names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_capsule.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Build:
    """An image to be built.

    ``context`` is the folder that COPY takes from, ``dockerfile`` a path beneath it or an absolute one (default: the
    context's ``Dockerfile``), ``target`` the stage to stop at, ``secrets`` and ``ssh`` as of ``Engine.build``, as are
    ``build_contexts``, whose folders are looked for where ``context`` is; ``tag`` the name to give it, ``cache_from``
    and ``cache_to`` where steps are shared with other machines (``Engine.build``).
    """

    context: str | os.PathLike[str]
    dockerfile: str | os.PathLike[str] | None = None
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str | bytes | os.PathLike[str]] = field(default_factory=dict)
    ssh: Sequence[str] = ()
    build_contexts: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict)
    no_cache: bool = False
    tag: str | None = None
    cache_from: str | Sequence[str] = ()
    cache_to: str | Sequence[str] = ()

    @property
    def short_name(self) -> str:
        """What to call it in a test's id: its tag or its folder, the target and the build arguments."""
        named = self.tag or os.path.basename(os.path.abspath(self.context))
        details = (*([self.target] if self.target else []), *(f"{k}={v}" for k, v in self.build_args.items()))
        return ":".join((named, *details))


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to be started: ``image`` (a reference or an ``Image``) or ``build``, and how to run it.

    The keywords are those of ``docker run``. ``command=[]`` starts no main process. ``ports`` takes Docker's forms
    (``8000``, ``"8080:8000"``), ``volumes`` ``"source:target[:ro]"`` texts, pairs or a mapping of them (a source
    is a path, the name of a volume that the test's containers share, or a ``Volume``), ``tmpfs`` paths or a mapping of
    paths to options; ``memory`` is in bytes or a text such as ``"64m"``, ``cpus`` a number of processors,
    ``pids`` a number of processes (``Container.limits`` says who sees to these three), ``timeout`` in seconds for
    ``wait``. ``stdin`` is what the main process reads.
    """

    image: Any = None
    build: Any = None
    name: str | None = None
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] | str | None = None
    entrypoint: Sequence[str] | str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | int | None = None
    workdir: str | None = None
    hostname: str | None = None
    ports: Sequence[int | str] = ()
    volumes: Sequence[Any] | Mapping[Any, str] = ()
    tmpfs: Sequence[str] | Mapping[str, str] = ()
    network: Any = None
    extra_hosts: Mapping[str, str] | Sequence[str] = ()
    wait: Any = None
    timeout: float = 60.0
    memory: int | str | None = None
    cpus: float | None = None
    pids: int | None = None
    read_only: bool = False
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    privileged: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    stdin: Any = None

    def __post_init__(self) -> None:
        for keyword, (kinds, wanted) in _KINDS.items():
            value = getattr(self, keyword)
            if value is not None and not isinstance(value, kinds):
                raise UsageError(f"{keyword}={value!r}: it takes {wanted}")
        _check_image(self)
        _check_words(self)
        if self.name and not _NAME.fullmatch(self.name):
            raise UsageError(
                f"name={self.name!r} is no name of a container", hint="letters, digits, and inside it also _ . -"
            )
        if self.workdir and not self.workdir.startswith("/"):
            raise UsageError(f"workdir={self.workdir!r}: it takes a path that begins with /")
        if isinstance(self.timeout, bool) or not self.timeout >= 0:
            raise UsageError(f"timeout={self.timeout!r}: it takes a number of seconds, none below 0")
        if self.wait is not None and not callable(self.wait) and not hasattr(self.wait, "check"):
            raise UsageError(f"wait={self.wait!r}: it takes a strategy of pytest_capsule.wait, or a callable")

    @classmethod
    def of(cls, *positional: Any, **keywords: Any) -> ContainerSpec:
        """The spec that a call ``(image=None, *, ...)`` means; ``UsageError`` names a wrong keyword or value."""
        if len(positional) > 1:
            raise UsageError(f"container takes one positional argument, the image, and not {len(positional)}")
        if positional and "image" in keywords:
            raise UsageError("container got two images: one by position, one as image=")
        _check_keywords(keywords)
        return cls(*positional, **keywords)

    def with_changes(self, **changes: Any) -> ContainerSpec:
        """The same spec but for ``changes``: what an overridden ``container_spec`` fixture returns.

        An ``image`` takes the place of what is built, with its ``target`` and ``build_args``, and a ``build`` that of
        the image.
        """
        _check_keywords(changes)
        if changes.get("image") is not None:
            changes = {"build": None, "target": None, "build_args": {}, **changes}
        elif changes.get("build") is not None:
            changes = {"image": None, **changes}
        return replace(self, **changes)


_KEYWORDS = tuple(one.name for one in fields(ContainerSpec))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # moby, daemon/names: RestrictedNameChars
_TEXTS = (str,)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "build": ((str, os.PathLike, Build), "a folder, the path of a Dockerfile, or a Build"),
    "name": (_TEXTS, "a text"),
    "target": (_TEXTS, "a text"),
    "build_args": ((dict, Mapping), "a mapping"),
    "command": ((str, list, tuple), "a list of words, or a text for the shell"),
    "entrypoint": ((str, list, tuple), "a list of words, or a text for the shell"),
    "env": ((dict, Mapping), "a mapping"),
    "user": ((str, int), "a name or a number"),
    "workdir": (_TEXTS, "a path"),
    "hostname": (_TEXTS, "a text"),
    "ports": ((list, tuple), "a list of ports"),
    "volumes": ((list, tuple, dict, Mapping), 'a list of "source:target" texts or a mapping'),
    "tmpfs": ((list, tuple, dict, Mapping), "a list of paths or a mapping"),
    "extra_hosts": ((list, tuple, dict, Mapping), 'a mapping, or a list of "name:address" texts'),
    "timeout": ((int, float), "a number of seconds"),
    "memory": ((int, str), 'a number of bytes or a text such as "64m"'),
    "cpus": ((int, float), "a number of processors"),
    "pids": ((int,), "a number of processes"),
    "read_only": ((bool,), "True or False"),
    "cap_add": ((list, tuple), "a list of capabilities"),
    "cap_drop": ((list, tuple), "a list of capabilities"),
    "privileged": ((bool,), "True or False"),
    "labels": ((dict, Mapping), "a mapping"),
}
_WORDS = (str, os.PathLike)
_VALUES = (str, int, float, os.PathLike)


def _check_keywords(given: Mapping[str, Any]) -> None:
    for keyword in given:
        if keyword not in _KEYWORDS:
            import difflib

            near = difflib.get_close_matches(keyword, _KEYWORDS, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(_KEYWORDS)}"
            raise UsageError(f"container has no keyword {keyword}=", hint=hint)


def _check_image(spec: ContainerSpec) -> None:
    """It has an image or builds one. An ``Image`` is told by its ``tree``: the store is on another floor."""
    if (spec.image is None) == (spec.build is None):
        what = "neither an image nor build=" if spec.image is None else "both an image and build="
        raise UsageError(f"container got {what}: it takes one of them")
    if spec.build is None and (spec.target is not None or spec.build_args):
        raise UsageError("target= and build_args= go with build=")
    if spec.image is not None and not isinstance(spec.image, str) and not hasattr(spec.image, "tree"):
        hint = (
            "for the image of a fixture, say build= or the reference here too (it is built once), or let the fixture "
            "container_spec return container_spec.with_changes(image=...)"
        )
        raise UsageError(f"image={spec.image!r}: it takes a reference or an Image", hint=hint)


def _check_words(spec: ContainerSpec) -> None:
    for keyword in ("command", "entrypoint"):
        words = getattr(spec, keyword)
        if words is not None and not isinstance(words, str) and not all(isinstance(word, _WORDS) for word in words):
            raise UsageError(f"{keyword}={words!r}: every word is a text")
    for keyword in ("env", "labels", "build_args"):
        for name, value in getattr(spec, keyword).items():
            if not isinstance(name, str) or not isinstance(value, _VALUES):
                raise UsageError(f"{keyword}={{{name!r}: {value!r}}}: names and values are texts")
