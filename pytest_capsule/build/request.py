"""What is asked for: a context, a Dockerfile, and how to build it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_capsule.build import epoch
from pytest_capsule.build.named import NamedContexts, parse_contexts
from pytest_capsule.build.secrets import Secret, check_secrets, find_agents
from pytest_capsule.dockerfile import IgnoreRules
from pytest_capsule.errors import UsageError
from pytest_capsule.oci.platform import Platform

IGNORED = ".dockerignore"


@dataclass(frozen=True, slots=True)
class Request:
    """What to build: ``context`` is a folder, ``dockerfile`` the file itself; both exist.

    ``agents`` are the sockets of SSH agents by id; ``platform`` is what the image is to be for; ``contexts`` are the
    named ones beside ``context``, ``labels`` are put on the image besides those of the Dockerfile.
    """

    context: Path
    dockerfile: Path
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    platform: Platform = field(default_factory=Platform.here)
    contexts: NamedContexts = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The Dockerfile's path as errors name it."""
        is_near = self.dockerfile.is_relative_to(Path.cwd())
        return os.path.relpath(self.dockerfile) if is_near else str(self.dockerfile)

    def ignore_rules(self) -> IgnoreRules | None:
        """``<Dockerfile>.dockerignore`` where there is one, else the context's ``.dockerignore``."""
        for path in (Path(f"{self.dockerfile}.dockerignore"), self.context / IGNORED):
            if path.is_file():
                return IgnoreRules.parse(path.read_bytes(), path=str(path))
        return None


def request(
    context: str | os.PathLike[str],
    dockerfile: str | os.PathLike[str] | None = None,
    *,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
    secrets: Mapping[str, Secret] | None = None,
    ssh: Sequence[str] = (),
    platform: str | None = None,
    contexts: Mapping[str, str | os.PathLike[str]] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Request:
    """Find the Dockerfile of a build: ``UsageError`` when there is no such folder or file.

    ``context`` may be the path of a Dockerfile; its folder is the context then. ``dockerfile`` is relative to the
    context, as for Docker's ``-f`` relative to the current folder where it is not found there.
    """
    folder = Path(context)
    if folder.is_file() and dockerfile is None:
        folder, dockerfile = folder.parent, folder.name
    if not folder.is_dir():
        raise UsageError(f"build: no such folder: {folder}", hint="the context is the folder that COPY takes from")
    names = ("Dockerfile", "dockerfile") if dockerfile is None else (dockerfile, Path.cwd() / dockerfile)
    candidates = [folder / name for name in names]
    for candidate in candidates:
        if candidate.is_file():
            arguments = {name: str(value) for name, value in (build_args or {}).items()}
            if epoch.NAME in os.environ:  # as docker buildx passes it on
                arguments.setdefault(epoch.NAME, os.environ[epoch.NAME])
            named = candidate.parent.resolve() / candidate.name  # a symlink by its own name: so is its .dockerignore
            return Request(
                context=folder.resolve(),
                dockerfile=named,
                target=target,
                build_args=arguments,
                no_cache=no_cache,
                secrets=check_secrets(secrets or {}),
                agents=find_agents(ssh),
                platform=Platform.named(platform),
                contexts=parse_contexts(contexts or {}),
                labels={name: str(value) for name, value in (labels or {}).items()},
            )
    raise UsageError(
        f"build: no such Dockerfile: {candidates[0]}", hint="name it with dockerfile= (on the command line: -f)"
    )
