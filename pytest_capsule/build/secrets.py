"""What a build is given and must not keep: secrets, and the way to an SSH agent."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pytest_capsule.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Secret = str | bytes | os.PathLike[str]
_LARGEST = 500 * 1024  # BuildKit, secretsprovider.MaxSecretSize
DEFAULT_AGENT = "default"


def read_secret(name: str, secret: Secret) -> bytes:
    """A secret's value: a ``str`` or ``bytes`` is the value itself, a ``Path`` a file that holds it."""
    if isinstance(secret, str):
        value = secret.encode("utf-8", "surrogateescape")
    elif isinstance(secret, bytes):
        value = secret
    else:
        try:
            with open(secret, "rb") as file:
                value = file.read(_LARGEST + 1)
        except OSError as error:
            raise UsageError(f"secret {name}: {os.fspath(secret)} cannot be read: {error.strerror}") from None
    if len(value) > _LARGEST:
        raise UsageError(f"secret {name} is larger than {_LARGEST // 1024} KB", hint="bind-mount a file of that size")
    return value


def check_secrets(secrets: Mapping[str, Secret]) -> Mapping[str, Secret]:
    """The same; ``UsageError`` for what is no secret, and for a file that is not there. Files are not read yet."""
    for name, secret in secrets.items():
        if not name or not isinstance(secret, (str, bytes, os.PathLike)):
            raise UsageError(
                f"secret {name!r}: its value is a {type(secret).__name__}",
                hint="give a str or bytes (the value itself) or a pathlib.Path (a file that holds it)",
            )
        if isinstance(secret, os.PathLike) and not os.path.isfile(secret):
            raise UsageError(f"secret {name}: there is no file {os.fspath(secret)}")
    return secrets


def find_agents(texts: Sequence[str]) -> dict[str, str]:
    """The sockets of SSH agents by id, from ``default`` or ``ID`` (``$SSH_AUTH_SOCK``) and ``ID=SOCKET``.

    BuildKit's ``--ssh`` also reads keys from files, which an agent does as well: ``ssh-add``.
    """
    found = {}
    for text in (texts,) if isinstance(texts, str) else texts:
        name, equals, path = text.partition("=")
        if not name:
            raise UsageError(f"ssh {text!r}: write it default, ID or ID=SOCKET")
        path = path if equals else os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise UsageError(
                f"ssh {text}: there is no SSH agent: $SSH_AUTH_SOCK is not set", hint='eval "$(ssh-agent)"'
            )
        found[name] = _socket(text, os.path.abspath(os.path.expanduser(path)))
    return found


def _socket(text: str, path: str) -> str:
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise UsageError(f"ssh {text}: {path}: {error.strerror}") from None
    if not is_socket:
        raise UsageError(
            f"ssh {text}: {path} is no socket", hint=f"give an agent the key: ssh-add {path}; then --ssh default"
        )
    return path
