"""Sources of ADD that lie elsewhere: which are URLs and which git references, and what their fetching needs."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from pytest_capsule.build.download import Download
from pytest_capsule.build.git import GitReference, Repository
from pytest_capsule.build.secrets import read_secret
from pytest_capsule.dockerfile import instructions as ins

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_capsule.build.parts import Part
    from pytest_capsule.build.secrets import Secret
    from pytest_capsule.store.store import Store


class Remotes(contextlib.ExitStack):
    """What the remote sources of one step share; what they have fetched is gone when its ``with`` block ends."""

    def __init__(self, store: Store, secrets: Mapping[str, Secret], agents: Mapping[str, str]) -> None:
        super().__init__()
        self.store = store
        self.agents = agents
        self._secrets = secrets

    def folder(self) -> Path:
        """A new, empty folder."""
        return self.enter_context(self.store.scratch())

    def secret(self, *names: str) -> str | None:
        """The first of these secrets that the build was given."""
        for name in names:
            if name in self._secrets:
                return read_secret(name, self._secrets[name]).decode("utf-8", "surrogateescape").strip()
        return None

    def part(self, source: str, instruction: ins.Transfer) -> Part | None:
        """The part that ``source`` is, ``None`` for a path; ``DockerfileError`` for flags that do not fit it."""
        add = instruction if isinstance(instruction, ins.Add) else None
        with instruction.origin.placing():
            reference = GitReference.parse(source)
            is_url = reference is None and source.startswith(("http://", "https://"))
        what = "git reference" if reference else "URL" if is_url else ""
        if add is None:
            if what:
                raise instruction.origin.error(f"{source}: the source of COPY can't be a {what}", hint="ADD takes one")
            return None
        if add.checksum:
            _check_checksum(add, is_url=is_url, is_git=reference is not None)
        if reference is not None:
            with instruction.origin.placing():
                wanted = reference.with_flags(add.checksum, add.keep_git_dir)
                return Repository(self, wanted, add.exclude_rules())
        return Download(self, source, add.checksum, unpack=bool(add.unpack)) if is_url else None


def _check_checksum(add: ins.Add, *, is_url: bool, is_git: bool) -> None:
    error = add.origin.error
    if len(add.sources) != 1:
        raise error("checksum can't be specified for multiple sources", hint="write an ADD for each")
    if not (is_url or is_git):
        raise error("checksum requires HTTP(S) or Git sources", hint="files of the context need none")
    if is_url and not re.fullmatch("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", add.checksum):
        raise error(f"--checksum={add.checksum} is no digest", hint="for instance --checksum=sha256: and 64 digits")
    if is_git and not re.fullmatch("[0-9a-f]{7,64}", add.checksum):
        raise error(f"--checksum={add.checksum} is no commit", hint="write the commit's hexadecimal digits")
