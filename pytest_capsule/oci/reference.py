"""Image references: what a user types and what it stands for.

The grammar and the normalisation are those of distribution/reference, which Docker, BuildKit and containerd share.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from pytest_capsule.errors import InvalidReference, MalformedImage
from pytest_capsule.oci.digest import Digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

# The name of Docker Hub before 2015; Docker still takes it for the same place.
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_ALGORITHMS = ("sha256", "sha512")
_MAX_PATH = 255
_MAX_TAG = 128

_HOST_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")

_GRAMMAR = "a reference is [registry[:port]/]name[:tag][@sha256:...], as in postgres:16 or localhost:5000/team/app"


@dataclass(frozen=True, slots=True)
class Reference:
    """One image, or one repository's tag: make it with ``parse``.

    ``domain`` is the registry ("docker.io"), ``path`` the repository in it ("library/postgres"), ``tag`` is ``None``
    only where a digest is given, ``digest`` is ``None`` where none was. ``str()`` is the full canonical form.
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    @functools.lru_cache(maxsize=1024)  # a suite names few images, and each in many tests
    def parse(cls, text: str) -> Reference:
        """Read ``name[:tag][@digest]``; with neither tag nor digest the tag is ``latest``.

        Raises ``InvalidReference`` with the reason and a hint.
        Source: distribution/reference, normalize.go and regexp.go.
        """
        _refuse_what_is_no_name(text)
        named, at, digest_text = text.partition("@")
        domain, remainder = _split_domain(named)
        path, colon, tag = remainder.partition(":")
        _check_domain(domain, text)
        _check_path(path, text)
        if colon:
            _check_tag(tag, text)
        digest = _parse_digest(digest_text, text) if at else None
        return cls(domain, path, tag if colon else None if digest else DEFAULT_TAG, digest)

    @classmethod
    def to_give(cls, text: str) -> Reference:
        """As ``parse``, of a name for an image. One with a digest cannot be given, nor one that looks like a digest.

        Source: docker/cli, ``image/tag.go``; moby, ``reference/store.go``.
        """
        reference = cls.parse(text)
        if reference.digest is not None:
            raise InvalidReference(
                f"{text!r}: a digest cannot be given to an image, it has one", reference=text, hint="write name:tag"
            )
        if reference.familiar_name in _ALGORITHMS:
            raise InvalidReference(
                f"{text!r} looks like a digest, no name", reference=text, hint="choose another repository name"
            )
        return reference

    @property
    def name(self) -> str:
        """The repository with its registry: "docker.io/library/postgres"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker shows it: "postgres", "grafana/loki", "ghcr.io/org/app"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        # "library/a/b" stays whole: "a/b" would read back as another repository.
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """The reference as Docker shows it: "postgres:16". It parses back to an equal value."""
        return self.familiar_name + self._suffix()

    @property
    def exact(self) -> Reference:
        """What tells most: the digest without the tag beside it, which may name something else tomorrow."""
        return replace(self, tag=None) if self.digest else self

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        return self.name + self._suffix()


def familiar(text: str) -> str:
    """A reference as Docker shows it; a text that is none, such as the beginning of an id, stays as it is."""
    try:
        return Reference.parse(text).familiar
    except InvalidReference:
        return text


def _split_domain(name: str) -> tuple[str, str]:
    """Tell a registry from the first part of a repository; a registry has a dot, a colon or a capital in it."""
    first, slash, rest = name.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + name
    if first == _LEGACY_DOMAIN:
        domain, remainder = DEFAULT_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first != first.lower():
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, name
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _refuse_what_is_no_name(text: str) -> None:
    if not text:
        raise InvalidReference("the image reference is empty", reference=text, hint=_GRAMMAR)
    if text != text.strip() or any(character.isspace() for character in text):
        raise InvalidReference(f"{text!r} has white space in it", reference=text, hint=_GRAMMAR)
    if "://" in text:
        bare = text.partition("://")[2]
        raise InvalidReference(f"{text!r} is a URL, no image reference", reference=text, hint=f"write {bare!r}")
    if _IMAGE_ID.fullmatch(text):
        # It could never be told from an image id (normalize.go).
        raise InvalidReference(f"{text!r} is an image id, no name", reference=text, hint=_GRAMMAR)


def _check_domain(domain: str, text: str) -> None:
    if _DOMAIN.fullmatch(domain) is None:
        raise InvalidReference(f"{text!r}: {domain!r} is no registry host", reference=text, hint=_GRAMMAR)


def _check_path(path: str, text: str) -> None:
    if path != path.lower():
        lower = path.lower().removeprefix(_OFFICIAL)
        raise InvalidReference(f"{text!r}: repository name must be lowercase", reference=text, hint=f"write {lower!r}")
    if _PATH.fullmatch(path) is None:
        shown = path.removeprefix(_OFFICIAL)
        raise InvalidReference(f"{text!r}: {shown!r} is no repository name", reference=text, hint=_GRAMMAR)
    if len(path) > _MAX_PATH:
        raise InvalidReference(
            f"{text!r}: repository name must not be more than {_MAX_PATH} characters", reference=text
        )


def _check_tag(tag: str, text: str) -> None:
    if len(tag) > _MAX_TAG:
        raise InvalidReference(f"{text!r}: a tag has at most {_MAX_TAG} characters", reference=text)
    if _TAG.fullmatch(tag) is None:
        raise InvalidReference(
            f"{text!r}: {tag!r} is no tag",
            reference=text,
            hint="a tag has letters, digits, '_', '.' and '-', and starts with none of the last two",
        )


def _parse_digest(digest: str, text: str) -> Digest:
    try:
        return Digest.parse(digest)
    except MalformedImage as error:
        raise InvalidReference(f"{text!r}: {error.message}", reference=text, hint=_GRAMMAR) from error
