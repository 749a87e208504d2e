"""``SOURCE_DATE_EPOCH``: the time that a build gives to all it makes, so that it makes the same again.

No time in the image is later: not of the image, nor in its history, nor of a file in its layers; what COPY places is of
just that time. So it is with BuildKit and ``rewrite-timestamp=true``. See https://reproducible-builds.org.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_capsule.errors import UsageError
from pytest_capsule.oci.config import ImageConfig
from pytest_capsule.store.image import moment

NAME = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A moment, in seconds since 1970."""

    seconds: int

    @classmethod
    def of(cls, build_args: Mapping[str, str], global_args: Mapping[str, str]) -> Epoch | None:
        """The one of a build, if it has one: a build argument, or an ARG before the first FROM with a default."""
        text = build_args.get(NAME, global_args.get(NAME, ""))
        if not text:
            return None
        try:
            epoch = cls(int(text))
            _ = epoch.text  # there is no year 10000
        except (ValueError, OverflowError, OSError):
            raise UsageError(f"{NAME}={text}: it is a number of seconds since 1970", hint="or leave it empty") from None
        return epoch

    @property
    def text(self) -> str:
        """As image configs write it."""
        return datetime.datetime.fromtimestamp(self.seconds, datetime.timezone.utc).isoformat().replace("+00:00", "Z")

    def clamped(self, config: ImageConfig) -> ImageConfig:
        """``config`` with no time later than this one, and none missing."""
        history = tuple(replace(entry, created=self._clamp(entry.created)) for entry in config.history)
        return replace(config, created=self._clamp(config.created), history=history)

    def _clamp(self, created: str) -> str:
        made = moment(created)
        return created if made is not None and made.timestamp() <= self.seconds else self.text
