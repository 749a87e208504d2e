"""``--filter`` of ``capsule images``: which of the store's images are meant.

Values of one name are alternatives, but of labels all have to be there; what several names say holds together. Source:
moby, ``daemon/images/images.go``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_capsule.errors import InvalidReference, UsageError
from pytest_capsule.oci.reference import Reference
from pytest_capsule.store.image import moment

if TYPE_CHECKING:
    from pytest_capsule.engine import Engine
    from pytest_capsule.store.image import Image

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_AGE = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_LONG_AGO = datetime.datetime(1, 1, 1, tzinfo=datetime.timezone.utc)

Named = tuple["Image", str]


def chosen(engine: Engine, filters: Sequence[str]) -> list[Named]:
    """The images that all filters let pass, the newest first, with one name each time, "" for one that has none."""
    values: dict[str, list[str]] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--filter {text}: a filter is written NAME=VALUE", hint=f"there are: {_KNOWN}")
        values.setdefault(name.strip().lower(), []).append(value.strip())
    tests = []
    for name, given in values.items():
        if name not in _FILTERS:
            raise UsageError(f"there is no filter {name!r}", hint=f"there are: {_KNOWN}")
        tests.append(_FILTERS[name](engine, given))
    found = sorted((image.settled() for image in engine.images()), key=_created, reverse=True)
    named = [(image, name) for image in found for name in image.tags or ("",)]
    return [one for one in named if all(test(one) for test in tests)]


def _reference(engine: Engine, patterns: Sequence[str]) -> Callable[[Named], bool]:
    def matches(pattern: str, name: str) -> bool:
        reference = Reference.parse(name)
        if any(_path_pattern(pattern).fullmatch(text) for text in (reference.familiar, reference.familiar_name)):
            return True
        try:  # another spelling of the name
            wanted = Reference.parse(pattern)
        except InvalidReference:
            return False
        any_tag = ":" not in pattern.rpartition("/")[2]
        return wanted.name == reference.name and (any_tag or wanted.tag == reference.tag)

    return lambda one: bool(one[1]) and any(matches(pattern, one[1]) for pattern in patterns)


def _path_pattern(pattern: str) -> re.Pattern[str]:
    from pytest_capsule.build.patterns import compile_pattern  # a list without this filter loads nothing that builds

    try:
        return compile_pattern(pattern)
    except ValueError:
        raise UsageError(f"{pattern!r} is no pattern", hint="write one such as 'team/*' or 'app:1.[0-9]'") from None


def _dangling(engine: Engine, given: Sequence[str]) -> Callable[[Named], bool]:
    for text in given:
        if text.lower() not in _BOOLEANS:
            raise UsageError(f"--filter dangling={text}: it is true or false")
    wanted = {_BOOLEANS[text.lower()] for text in given}
    return lambda one: (not one[1]) in wanted


def _label(engine: Engine, given: Sequence[str]) -> Callable[[Named], bool]:
    def has(image: Image, text: str) -> bool:
        key, equals, value = text.partition("=")
        labels = image.config.config.labels
        return key in labels and (not equals or labels[key] == value)

    return lambda one: all(has(one[0], text) for text in given)


def _created(image: Image) -> datetime.datetime:
    return moment(image.config.created) or _LONG_AGO


def _before(engine: Engine, given: Sequence[str]) -> Callable[[Named], bool]:
    limits = [_created(engine.image(reference, pull="never")) for reference in given]
    return lambda one: all(_created(one[0]) < limit for limit in limits)


def _since(engine: Engine, given: Sequence[str]) -> Callable[[Named], bool]:
    limits = [_created(engine.image(reference, pull="never")) for reference in given]
    return lambda one: all(_created(one[0]) > limit for limit in limits)


def _until(engine: Engine, given: Sequence[str]) -> Callable[[Named], bool]:
    limits = [_time(text) for text in given]
    return lambda one: all(_created(one[0]) < limit for limit in limits)


def _time(text: str) -> datetime.datetime:
    """A time, or how long ago it was: ``2026-01-31``, ``2026-01-31T12:00:00``, ``24h``, ``1h30m``."""
    ago = _AGE.fullmatch(text)
    try:
        if text and ago is not None:
            hours, minutes, seconds = (int(part or 0) for part in ago.groups())
            now = datetime.datetime.now(datetime.timezone.utc)
            return now - datetime.timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--filter until={text}: that is no time", hint="write a day, such as 2026-01-31, or an age, such as 24h"
        ) from None


_FILTERS: dict[str, Callable[[Engine, Sequence[str]], Callable[[Named], bool]]] = {
    "before": _before,
    "dangling": _dangling,
    "label": _label,
    "reference": _reference,
    "since": _since,
    "until": _until,
}
_KNOWN = ", ".join(_FILTERS)
