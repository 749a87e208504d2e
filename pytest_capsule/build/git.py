"""``ADD https://host/name.git#ref:dir``: the files of a git repository, by the ``git`` program.

Source: BuildKit, ``frontend/dockerfile/dfgitutil`` and ``source/git``.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import subprocess
import urllib.parse
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_capsule.build.context import Context
from pytest_capsule.build.execution import StepFailed
from pytest_capsule.build.folders import HostFolder
from pytest_capsule.build.parts import Piece
from pytest_capsule.dockerfile.scalars import parse_bool
from pytest_capsule.dockerfile.text import did_you_mean
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_capsule.build.remotes import Remotes
    from pytest_capsule.dockerfile.dockerignore import IgnoreRules

_SCP = re.compile(r"(?P<host>[\w-]+@[\w.-]+):(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?")
_PROTOCOL = re.compile(r"([a-zA-Z0-9]+)://")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = 64  # digits
_LEND_AN_AGENT = "give the build an agent that has the key: build(ssh=['default']), or --ssh default"
_KEYS = ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules")


@dataclass(frozen=True, slots=True)
class GitReference:
    """What a git reference asks for: ``ref`` is a commit, branch or tag (empty: the default branch)."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True

    @classmethod
    def parse(cls, text: str) -> GitReference | None:
        """Read one, ``None`` for what is none; ``DockerfileError`` (without a line) for one that cannot be meant."""
        protocol = _PROTOCOL.match(text)
        if protocol:
            parts = urllib.parse.urlsplit(text)
            scheme = protocol[1].lower()
            if scheme not in ("ssh", "git") and not (scheme in ("http", "https") and parts.path.endswith(".git")):
                return None
            remote, query, fragment = parts._replace(query="", fragment="").geturl(), parts.query, parts.fragment
        elif scp := _SCP.fullmatch(text):
            remote, query, fragment = f"{scp['host']}:{scp['path']}", scp["query"] or "", scp["fragment"] or ""
        else:
            return None
        ref, _, subdir = fragment.partition(":")
        return cls(remote, urllib.parse.unquote(ref), urllib.parse.unquote(subdir))._with_query(query)

    def _with_query(self, query: str) -> GitReference:
        """The form of BuildKit 0.24 and newer: ``?tag=v1&subdir=docs``."""
        values = urllib.parse.parse_qs(query, keep_blank_values=True)
        for key, given in values.items():
            if key not in _KEYS:
                raise DockerfileError(f"unexpected query {key!r}", hint=did_you_mean(key, _KEYS))
            if len(given) > 1:
                raise DockerfileError(f"query {key!r} has multiple values")
            if not given[0] and key not in ("keep-git-dir", "submodules"):
                raise DockerfileError(f"query {key!r} has no value")
        one = {key: given[0] for key, given in values.items()}
        if "tag" in one and "branch" in one:
            raise DockerfileError("branch conflicts with tag", hint="write one of them")
        refs = [
            self.ref,
            one.get("ref", ""),
            _full("refs/tags/", one.get("tag")),
            _full("refs/heads/", one.get("branch")),
        ]
        checksum = one.get("checksum") or one.get("commit", "")
        return replace(
            self,
            # A commit's first digits are nothing to ask a server for: they say what the default branch has to be.
            ref=_only("ref", refs) or (checksum if _COMMIT.fullmatch(checksum) else ""),
            subdir=_only("subdir", [self.subdir, one.get("subdir", "")]),
            checksum=checksum,
            keep_git_dir=parse_bool("keep-git-dir", one["keep-git-dir"] or "true") if "keep-git-dir" in one else None,
            submodules=parse_bool("submodules", one.get("submodules") or "true"),
        )

    def with_flags(self, checksum: str, keep_git_dir: bool | None) -> GitReference:
        """With what the flags of ADD say; ``DockerfileError`` where the query says something else."""
        if None not in (keep_git_dir, self.keep_git_dir) and keep_git_dir != self.keep_git_dir:
            raise DockerfileError("inconsistent keep-git-dir configuration", hint="write it once")
        keep = keep_git_dir if self.keep_git_dir is None else self.keep_git_dir
        return replace(self, checksum=_only("checksum", [self.checksum, checksum]), keep_git_dir=keep)


def _full(prefix: str, name: str | None) -> str | None:
    return prefix + name.removeprefix(prefix) if name else None


def _only(what: str, values: Sequence[str | None]) -> str:
    given = list(dict.fromkeys(value for value in values if value))
    if len(given) > 1:
        raise DockerfileError(f"{what} conflicts: {given[0]!r} vs {given[1]!r}", hint="write one of them")
    return given[0] if given else ""


class Repository:
    """The files of a repository at one commit."""

    unpacks = False

    def __init__(self, remotes: Remotes, reference: GitReference, exclude: IgnoreRules) -> None:
        self._remotes = remotes
        self._reference = reference
        self._exclude = exclude
        self._commit = ""

    def inputs(self) -> Any:
        """The commit, and what of it is wanted."""
        self._commit = self._commit or self._find_commit()
        wanted = self._reference
        left_out = [str(pattern) for pattern in self._exclude.patterns]
        return ["git", self._commit, wanted.subdir, bool(wanted.keep_git_dir), wanted.submodules, left_out]

    def contents(self) -> Mapping[str, str]:
        """The commit."""
        return {self._reference.remote: self._commit}

    def pieces(self, opened: contextlib.ExitStack, scratch: Path) -> Sequence[Piece]:
        """Checked out now."""
        folder = self._check_out(self._remotes.folder())
        context = Context(HostFolder(str(folder)))
        try:
            return [Piece(source, context) for source in context.find(self._reference.subdir, self._exclude)]
        except OSError as error:
            raise self._failed(f"{self._reference.subdir}: {error.strerror} in the repository") from None

    def _find_commit(self) -> str:
        wanted = self._reference
        commit, *tag = [wanted.ref] if _COMMIT.fullmatch(wanted.ref) else self._named(wanted.ref or "HEAD")
        if not any(digest.startswith(wanted.checksum) for digest in (commit, *tag)):
            got = " or ".join((commit, *tag))
            raise self._failed(f"expected checksum to match {wanted.checksum}, got {got}")
        return commit

    def _named(self, name: str) -> list[str]:
        """The commit that a name stands for in the repository, and the object of the tag, where that is annotated.

        A name is looked for as ``git checkout`` does (``source/git``): right below ``refs/``, which ``pull/7/head``
        needs, then among the branches, then among the tags.
        """
        listed = self._git("ls-remote", "--", self._reference.remote, name, f"{name}^{{}}")
        digests = {ref: digest for digest, _, ref in (line.partition("\t") for line in listed.splitlines())}
        for folder in ("refs/", "refs/heads/", "refs/tags/"):
            ref = folder + name.removeprefix(folder)
            if ref in digests:
                return [digests[place] for place in (f"{ref}^{{}}", ref) if place in digests]
        if name in digests:  # HEAD lies in no folder
            return [digests[name]]
        raise self._failed(f"there is no branch, tag or commit {name}")

    def _check_out(self, folder: Path) -> Path:
        """Fetch that one commit into a new repository and check it out, its submodules too."""
        wanted = self._reference
        kind = ("--object-format=sha256",) if len(self._commit) == _SHA256 else ()
        self._git("init", "--quiet", *kind, folder=folder)
        self._git("remote", "add", "origin", wanted.remote, folder=folder)
        try:
            self._git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", self._commit, folder=folder)
        except StepFailed:  # a server may give only what its branches and tags name, or no shallow clones
            self._git("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*", folder=folder)
        self._git("-c", "advice.detachedHead=false", "checkout", "--quiet", self._commit, folder=folder)
        if wanted.submodules:
            update = ("submodule", "--quiet", "update", "--init", "--recursive")
            try:
                self._git(*update, "--depth=1", folder=folder)
            except StepFailed:  # as above
                self._git(*update, folder=folder)
        if not wanted.keep_git_dir:
            shutil.rmtree(folder / ".git")
            for path in folder.rglob(".git"):  # of submodules, a file that leads there
                path.unlink() if path.is_file() else None
        return folder

    def _git(self, *words: str, folder: Path | None = None) -> str:
        """Run git for its output, with no configuration but ours and nobody to ask."""
        program = shutil.which("git")
        if program is None:
            raise self._failed("the program git is not installed", hint="install it, for instance: apt-get install git")
        place = ("-C", str(folder)) if folder else ()
        done = subprocess.run(
            [program, *place, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=self._environment(),
            umask=0o022,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            hint = _LEND_AN_AGENT if any("Permission denied (publickey" in line for line in lines) else None
            raise self._failed("\n".join(lines[-4:]) or f"git {words[0]} ended with {done.returncode}", hint=hint)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SSH_"))}
        env |= {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": self._ssh,
            "LC_ALL": "C",
        }
        if "default" in self._remotes.agents:
            env["SSH_AUTH_SOCK"] = self._remotes.agents["default"]
        parts = urllib.parse.urlsplit(self._reference.remote)
        if parts.scheme in ("http", "https") and (header := self._authorization(parts.hostname)):
            env |= {  # not among git's words, which everybody on the machine can see
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: {header}",
            }
        return env

    @cached_property
    def _ssh(self) -> str:
        """Ssh with a lent agent's keys only; a known host is held to its key, a new one believed for this build."""
        options = {
            "BatchMode": "yes",
            "IdentityFile": "none",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": f"{self._remotes.folder() / 'known_hosts'} ~/.ssh/known_hosts",
            "LogLevel": "ERROR",
        }
        return shlex.join(["ssh", "-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())])

    def _authorization(self, host: str | None) -> str | None:
        """BuildKit's secrets for that: ``GIT_AUTH_HEADER`` and ``GIT_AUTH_TOKEN``, with ``.host`` where they differ."""
        if header := self._remotes.secret(f"GIT_AUTH_HEADER.{host}", "GIT_AUTH_HEADER"):
            return header
        if token := self._remotes.secret(f"GIT_AUTH_TOKEN.{host}", "GIT_AUTH_TOKEN"):
            return "basic " + base64.b64encode(f"x-access-token:{token}".encode()).decode()
        return None

    def _failed(self, reason: str, *, hint: str | None = None) -> StepFailed:
        parts = urllib.parse.urlsplit(self._reference.remote)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.scheme else parts.geturl()
        return StepFailed(f"{shown}: {reason}", hint=hint)
