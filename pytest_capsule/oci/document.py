"""JSON documents of images: read field by field with types checked, written byte for byte as Docker writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pytest_capsule.errors import MalformedImage
from pytest_capsule.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

_T = TypeVar("_T")

# Go's encoding/json escapes these, so that JSON can stand inside HTML; they occur nowhere but inside strings.
_GO_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class JsonObject:
    """One object of a document; ``path`` is its place, so that an error can name the field.

    A key that is missing or ``null`` gives the empty value of its type: image-spec config.md holds the two for equal.
    Every reader raises ``MalformedImage`` for a value of another type.
    """

    values: Mapping[str, Any]
    document: str
    path: str = ""
    known: set[str] = field(default_factory=set)

    def fail(self, message: str, key: str = "", *, hint: str | None = None) -> NoReturn:
        """Raise ``MalformedImage`` about ``key`` of this object, or about the object itself."""
        raise MalformedImage(message, document=self.document, field=self._place(key), hint=hint)

    def has(self, key: str) -> bool:
        """Whether ``key`` is there with a value other than ``null``."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """A string."""
        return self._typed(key, str, "", "a string")

    def number(self, key: str) -> int:
        """An integer."""
        return self._typed(key, int, 0, "an integer")

    def flag(self, key: str) -> bool:
        """True or false."""
        return self._typed(key, bool, False, "true or false")

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings."""
        items: list[Any] = self._typed(key, list, [], "an array of strings")
        for position, item in enumerate(items):
            if not isinstance(item, str):
                self.fail(f"expected a string, found {_kind(item)}", f"{key}[{position}]")
        return tuple(items)

    def text_map(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        found: dict[str, Any] = self._typed(key, dict, {}, "an object")
        for name, value in found.items():
            if not isinstance(value, str):
                self.fail(f"expected a string, found {_kind(value)}", f"{key}[{json.dumps(name)}]")
        return dict(found)

    def names(self, key: str) -> tuple[str, ...]:
        """A set, which Go writes as an object with empty values; sorted."""
        return tuple(sorted(self._typed(key, dict, {}, "an object")))

    def digest(self, key: str) -> Digest:
        """A digest, which must be there."""
        return self._digest(self.text(key), key)

    def digests(self, key: str) -> tuple[Digest, ...]:
        """An array of digests."""
        return tuple(self._digest(text, f"{key}[{position}]") for position, text in enumerate(self.texts(key)))

    def object(self, key: str) -> JsonObject:
        """A nested object."""
        return JsonObject(self._typed(key, dict, {}, "an object"), self.document, self._place(key))

    def objects(self, key: str) -> tuple[JsonObject, ...]:
        """An array of nested objects."""
        found: list[JsonObject] = []
        for position, item in enumerate(self._typed(key, list, [], "an array of objects")):
            place = f"{key}[{position}]"
            if not isinstance(item, dict):
                self.fail(f"expected an object, found {_kind(item)}", place)
            found.append(JsonObject(item, self.document, self._place(place)))
        return tuple(found)

    def rest(self) -> dict[str, Any]:
        """The keys that nobody has asked for until now, which a round trip keeps."""
        return {key: value for key, value in self.values.items() if key not in self.known}

    def _typed(self, key: str, kind: type[_T], empty: _T, wanted: str) -> _T:
        self.known.add(key)
        value = self.values.get(key)
        if value is None:
            return empty
        # bool is an int to Python and none to JSON.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(f"expected {wanted}, found {_kind(value)}", key)
        return value

    def _digest(self, text: str, key: str) -> Digest:
        try:
            return Digest.parse(text)
        except MalformedImage as error:
            raise MalformedImage(error.reason, document=self.document, field=self._place(key)) from error

    def _place(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path and key else self.path or key


def read_object(data: bytes, document: str) -> JsonObject:
    """Parse ``data`` as one JSON object; ``document`` names it in errors. Raises ``MalformedImage``."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedImage(f"not valid JSON: {error}", document=document) from error
    if not isinstance(value, dict):
        raise MalformedImage(f"expected a JSON object, found {_kind(value)}", document=document)
    return JsonObject(value, document)


def write_object(value: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """The JSON of ``value`` as Go's ``encoding/json`` writes it, keys in the order given."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, allow_nan=False)
    # A lone surrogate has no UTF-8 form; Go writes the replacement character for it.
    return _SURROGATES.sub("\ufffd", text).translate(_GO_ESCAPES).encode("utf-8")


def present(pairs: Iterable[tuple[str, Any]], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The pairs whose value is not empty (Go's ``omitempty``), then the unknown keys, sorted."""
    kept = {key: value for key, value in pairs if value}
    return {**kept, **{key: extra[key] for key in sorted(extra)}}


def name_set(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """A set as Go's ``map[string]struct{}`` is written: sorted keys with empty objects."""
    return {name: {} for name in sorted(names)}


def sorted_map(values: Mapping[str, str]) -> dict[str, str]:
    """A copy with its keys sorted, as Go writes every map."""
    return {key: values[key] for key in sorted(values)}


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", int: "a number", float: "a number", list: "an array", dict: "an object"}
    return names.get(type(value), "null")
