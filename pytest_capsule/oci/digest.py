"""Content digests, and the chain of layers that they name."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_capsule.errors import MalformedImage

if TYPE_CHECKING:
    from collections.abc import Iterable

# image-spec descriptor.md "Registered algorithms": lower-case hex only, of exactly this length.
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_LOWER_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The digest of some bytes: ``algorithm`` (sha256 or sha512) and ``hex``, lower case. Always valid.

    Raises ``MalformedImage`` for another algorithm, another length or other characters.
    Source: OCI image-spec, descriptor.md.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = _HEX_LENGTH.get(self.algorithm)
        if length is None:
            known = " and ".join(_HEX_LENGTH)
            raise MalformedImage(f"unsupported algorithm {self.algorithm!r}; {known} are known", document="digest")
        if len(self.hex) != length or _LOWER_HEX.fullmatch(self.hex) is None:
            raise MalformedImage(
                f"{self.algorithm} takes {length} lower-case hexadecimal digits, not {self.hex!r}", document="digest"
            )

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``algorithm:hex``."""
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise MalformedImage(f"{text!r} is not of the form algorithm:hex", document="digest")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``."""
        if algorithm not in _HEX_LENGTH:
            raise MalformedImage(f"unsupported algorithm {algorithm!r}", document="digest")
        return cls(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, as Docker prints an image id."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """The name of each stack of layers, bottom first: item ``n`` names the layers ``0..n`` together.

    Source: OCI image-spec, config.md, "Layer ChainID".
    """
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode("ascii")) if chain else diff_id)
    return tuple(chain)
