"""What a marker, a fixture factory or ``Engine.run`` asks for: values, under Docker's names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_capsule.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Build:
    """An image to be built.

    ``context`` is the folder that COPY takes from, ``dockerfile`` a path beneath it or an absolute one (default: the
    context's ``Dockerfile``), ``target`` the stage to stop at, ``secrets`` and ``ssh`` as of ``Engine.build``,
    ``tag`` the name to give it, ``cache_from`` and ``cache_to`` where steps are shared with other machines
    (``Engine.build``).
    """

    context: str | os.PathLike[str]
    dockerfile: str | os.PathLike[str] | None = None
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str | bytes | os.PathLike[str]] = field(default_factory=dict)
    ssh: Sequence[str] = ()
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

    @classmethod
    def of(cls, *positional: Any, **keywords: Any) -> ContainerSpec:
        """The spec that a call ``(image=None, *, ...)`` means; ``UsageError`` names a wrong keyword or value."""
        if len(positional) > 1:
            raise UsageError(f"container takes one positional argument, the image, and not {len(positional)}")
        if positional and "image" in keywords:
            raise UsageError("container got two images: one by position, one as image=")
        _check(keywords)
        spec = cls(*positional, **keywords)
        if (spec.image is None) == (spec.build is None):
            what = "neither an image nor build=" if spec.image is None else "both an image and build="
            raise UsageError(f"container got {what}: it takes one of them")
        if spec.build is None and (spec.target is not None or spec.build_args):
            raise UsageError("target= and build_args= go with build=")
        return spec

    def with_changes(self, **changes: Any) -> ContainerSpec:
        """The same spec but for ``changes``: what an overridden ``container_spec`` fixture returns."""
        _check(changes)
        return replace(self, **changes)


_KEYWORDS = tuple(one.name for one in fields(ContainerSpec))
_TEXTS = (str,)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "name": (_TEXTS, "a text"),
    "target": (_TEXTS, "a text"),
    "build_args": ((Mapping,), "a mapping"),
    "command": ((str, list, tuple), "a list of words, or a text for the shell"),
    "entrypoint": ((str, list, tuple), "a list of words, or a text for the shell"),
    "env": ((Mapping,), "a mapping"),
    "user": ((str, int), "a name or a number"),
    "workdir": (_TEXTS, "a path"),
    "hostname": (_TEXTS, "a text"),
    "ports": ((list, tuple), "a list of ports"),
    "volumes": ((list, tuple, Mapping), 'a list of "source:target" texts or a mapping'),
    "tmpfs": ((list, tuple, Mapping), "a list of paths or a mapping"),
    "extra_hosts": ((list, tuple, Mapping), 'a mapping, or a list of "name:address" texts'),
    "timeout": ((int, float), "a number of seconds"),
    "memory": ((int, str), 'a number of bytes or a text such as "64m"'),
    "cpus": ((int, float), "a number of processors"),
    "pids": ((int,), "a number of processes"),
    "read_only": ((bool,), "True or False"),
    "cap_add": ((list, tuple), "a list of capabilities"),
    "cap_drop": ((list, tuple), "a list of capabilities"),
    "privileged": ((bool,), "True or False"),
    "labels": ((Mapping,), "a mapping"),
}


def _check(given: Mapping[str, Any]) -> None:
    """``UsageError`` for a keyword that there is not, or a value that it does not take."""
    for keyword, value in given.items():
        if keyword not in _KEYWORDS:
            near = difflib.get_close_matches(keyword, _KEYWORDS, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(_KEYWORDS)}"
            raise UsageError(f"container has no keyword {keyword}=", hint=hint)
        kinds, wanted = _KINDS.get(keyword, ((object,), ""))
        if value is not None and not isinstance(value, kinds):
            raise UsageError(f"{keyword}={value!r}: it takes {wanted}")
    command, wait = given.get("command"), given.get("wait")
    if isinstance(command, (list, tuple)) and not all(isinstance(word, (str, os.PathLike)) for word in command):
        raise UsageError(f"command={command!r}: every word is a text")
    if wait is not None and not isinstance(wait, Callable) and not hasattr(wait, "check"):  # type: ignore[arg-type]
        raise UsageError(f"wait={wait!r}: it takes a strategy of pytest_capsule.wait, or a callable")
