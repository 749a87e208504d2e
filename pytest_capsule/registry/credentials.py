"""Who we are to a registry: what ``docker login`` and ``podman login`` have written down.

Docker's config file comes first, then podman's. Source: docker/cli, ``config/configfile``; containers/image,
containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_capsule.errors import UsageError
from pytest_capsule.oci.reference import DEFAULT_DOMAIN
from pytest_capsule.registry.settings import HUB_ACCOUNT

_HELPER_PATIENCE = 60
# What a helper gives as the user's name when its secret is an identity token (docker-credential-helpers).
_TOKEN_USER = "<token>"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A name with a password, or an identity token (for a token server), or a token to be sent as it is.

    ``source`` says where they stand, for errors; a ``repr`` shows nothing else.
    """

    source: str
    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(source={self.source!r})"

    @property
    def basic(self) -> str:
        """The value of ``Authorization`` for name and password."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode('ascii')}"

    def secrets(self) -> tuple[str, ...]:
        """Every text that may be in nobody's sight."""
        pair = self.basic.removeprefix("Basic ") if self.password else ""
        return tuple(text for text in (self.password, self.identity_token, self.registry_token, pair) if text)


def find_credentials(account: str, path: str, environment: Mapping[str, str], home: Path) -> Credentials | None:
    """The credentials for the repository ``path`` of the registry ``account``; ``None`` for nobody in particular.

    ``UsageError`` for a file that cannot be read, or a helper that fails.
    """
    for file in _files(environment, home):
        config = _read(file)
        if config is None:
            continue
        found = _from_helper(config, account, file, environment) or _from_file(config, account, path, file)
        if found is not None:
            return found
    return None


def _files(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return None  # another user's, as /run/user/0 is to who was root before
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise _unreadable(file, reason or str(error)) from None
    if not isinstance(config, dict):
        raise _unreadable(file, "it is no JSON object")
    return config


def _unreadable(file: Path, reason: str) -> UsageError:
    return UsageError(
        f"the credentials in {file} cannot be read: {reason}", hint="mend it, or make it anew with docker login"
    )


# -- helpers ----------------------------------------------------------------------------------------------------------


def _from_helper(
    config: Mapping[str, Any], account: str, file: Path, environment: Mapping[str, str]
) -> Credentials | None:
    helpers = config.get("credHelpers")
    hosts = (account, _host_of(account), DEFAULT_DOMAIN if account == HUB_ACCOUNT else account)
    helper = next((helpers[host] for host in hosts if host in helpers), None) if isinstance(helpers, dict) else None
    helper = helper or config.get("credsStore")
    if not helper:
        return None
    if not isinstance(helper, str) or os.sep in helper:
        raise _unreadable(file, "the name of a credential helper is no program's")
    return _ask_helper(f"docker-credential-{helper}", account, environment)


def _ask_helper(program: str, account: str, environment: Mapping[str, str]) -> Credentials | None:
    by_hand = f"try it by hand: echo {account} | {program} get"
    try:
        done = subprocess.run(
            [program, "get"],
            input=account.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            timeout=_HELPER_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError(f"the credential helper {program} is not installed", hint=by_hand) from None
    except (OSError, subprocess.TimeoutExpired):
        raise UsageError(f"the credential helper {program} does not answer", hint=by_hand) from None
    if done.returncode:
        # Helpers say so on stdout (docker-credential-helpers, errors.go).
        if b"credentials not found" in done.stdout:
            return None
        raise UsageError(f"the credential helper {program} failed with code {done.returncode}", hint=by_hand)
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    except (ValueError, AttributeError):
        raise UsageError(f"the credential helper {program} gave no JSON object", hint=by_hand) from None
    if username == _TOKEN_USER:
        return Credentials(program, identity_token=secret)
    return Credentials(program, username, secret) if username else None


# -- what stands in the file itself ------------------------------------------------------------------------------------


def _from_file(config: Mapping[str, Any], account: str, path: str, file: Path) -> Credentials | None:
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    written_as_url = (key for key in auths if _is_url(key) and _host_of(key) == _host_of(account))
    for key in (*_keys(account, path), *written_as_url):
        entry = auths.get(key)
        if isinstance(entry, dict) and (found := _read_entry(entry, file)) is not None:
            return found
    return None


def _keys(account: str, path: str) -> Iterator[str]:
    """The names under which an entry may stand, the most telling first; podman has some for parts of a registry."""
    if account == HUB_ACCOUNT:
        yield account
    domain = DEFAULT_DOMAIN if account == HUB_ACCOUNT else account
    parts = path.split("/")
    for length in range(len(parts), 0, -1):
        yield "/".join([domain, *parts[:length]])
    yield domain


def _read_entry(entry: Mapping[str, Any], file: Path) -> Credentials | None:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if encoded := entry.get("auth"):
        try:
            username, _, password = base64.b64decode(str(encoded), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise _unreadable(file, "an entry's auth is not base64 of name:password") from None
    found = Credentials(
        str(file),
        username,
        password.rstrip("\0"),
        str(entry.get("identitytoken") or ""),
        str(entry.get("registrytoken") or ""),
    )
    return found if found.username or found.identity_token or found.registry_token else None


def _is_url(key: str) -> bool:
    """Whether an entry's key is the address of a registry: old clients wrote a scheme, a version, or both."""
    return "://" in key or key.rstrip("/").endswith(("/v1", "/v2"))


def _host_of(key: str) -> str:
    return (key.partition("://")[2] or key).partition("/")[0]
