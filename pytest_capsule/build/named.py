"""Named contexts, ``--build-context NAME=VALUE``: what a build takes in the place of a stage or an image of that name.

Source: BuildKit's ``frontend/dockerui/namedcontext.go`` and buildx' ``ParseContextNames``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pytest_capsule.errors import InvalidReference, UsageError
from pytest_capsule.oci.reference import Reference

_IMAGE = "docker-image://"
_LAYOUT = "oci-layout://"
_FETCHED = ("http://", "https://", "git://", "ssh://", "git@", "target:", "input:")

_Context = TypeVar("_Context")
NamedContexts = Mapping[str, Path | str]
"""By the whole name (``docker.io/library/alpine:latest``): a folder, or what FROM would write for an image."""


def parse_contexts(given: Mapping[str, str | os.PathLike[str]]) -> dict[str, Path | str]:
    """Read contexts as they are given: a folder, ``docker-image://REFERENCE`` or ``oci-layout://FOLDER[:TAG]``.

    ``UsageError`` names one that is wrong.
    """
    return {_whole_name(name): _value(name, os.fspath(value)) for name, value in given.items()}


def is_folder(value: str | os.PathLike[str]) -> bool:
    """Whether a context is given as the path of a folder, which may be relative to something."""
    return not os.fspath(value).startswith((_IMAGE, _LAYOUT, *_FETCHED))


def context_named(contexts: Mapping[str, _Context], name: str) -> _Context | None:
    """The context that stands for what FROM or ``--from`` calls ``name``, if there is one."""
    if not contexts:
        return None
    try:
        return contexts.get(str(Reference.parse(name)))
    except InvalidReference:  # a number, "scratch", or a path
        return None


def _whole_name(name: str) -> str:
    try:
        return str(Reference.parse(name))
    except InvalidReference as error:
        raise UsageError(
            f"build context {name!r}: {error.message}", hint="it is called as FROM or --from calls it, in lower case"
        ) from None


def _value(name: str, value: str) -> Path | str:
    if value.startswith(_IMAGE):
        return value.removeprefix(_IMAGE)
    if value.startswith(_LAYOUT):
        return f"oci:{value.removeprefix(_LAYOUT)}"
    if not is_folder(value):
        raise UsageError(
            f"build context {name}={value}: nothing is fetched for one", hint="fetch it first, and give the folder"
        )
    folder = Path(value)
    if not folder.is_dir():
        raise UsageError(
            f"build context {name}={value}: no such folder",
            hint=f"give a folder, {_IMAGE}REFERENCE or {_LAYOUT}FOLDER[:TAG]",
        )
    return folder.resolve()
