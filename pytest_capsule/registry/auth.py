"""Answers a registry's challenges: name and password, or a token of the server that it names.

A token is asked for once for each scope and used until it expires. Credentials go to the registry that they are
kept for and to the token server that this registry names, and to nobody else.
Source: distribution, ``spec/auth/token.md`` and ``oauth.md``; containerd, ``remotes/docker/authorizer.go``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from pytest_capsule.registry.challenges import Challenge, parse_challenges
from pytest_capsule.registry.credentials import Credentials
from pytest_capsule.registry.transport import AGENT, Request, Response, address

# Tokens without a lifetime are good for this many seconds (token.md), and each is given up a little early.
_LIFETIME = 60
_MARGIN = 10
_LARGEST_TOKEN = 1 << 20

Send = Callable[[Request], Response]


class Refused(Exception):
    """Nobody lets us in. ``hint`` says what to do; neither text holds a secret."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    expires: float
    identity_token: str = ""
    """A newer one that came with it, for the next time."""


class IdentityTokens:
    """Those that token servers have handed out in the place of written ones, for all repositories of a client.

    The older one may be good for nothing then (oauth.md). Safe from any thread.
    """

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], str] = {}
        self._all: list[str] = []
        self._lock = threading.Lock()

    def newest(self, registry: str, written: str) -> str:
        """The one that took the place of that which is written for a registry, or that itself."""
        with self._lock:
            return self._newest.get((registry, written), written)

    def replace(self, registry: str, written: str, newer: str) -> None:
        """Let another take its place."""
        with self._lock:
            self._newest[registry, written] = newer
            self._all.append(newer)

    def secrets(self) -> list[str]:
        """All that there were."""
        with self._lock:
            return list(self._all)


class Authorizer:
    """Knows what to say to one registry. Safe from any thread.

    ``send`` carries requests to the token server, with retries; ``may_hear(url)`` says whether that one may be told a
    secret, ``find`` gives the credentials for the registry, and is called once, when they are needed; ``identities``
    are those of all repositories.
    """

    def __init__(
        self,
        registry: str,
        *,
        send: Send,
        may_hear: Callable[[str], bool],
        find: Callable[[], Credentials | None],
        identities: IdentityTokens,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._send = send
        self._may_hear = may_hear
        self._find = find
        self._identities = identities
        self._clock = clock
        self._challenge: Challenge | None = None
        self._credentials: Credentials | None = None
        self._looked = False
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._wanted: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def header(self, scopes: Sequence[str]) -> str:
        """The value of ``Authorization`` for a request, "" as long as the registry has not asked for any."""
        with self._lock:
            if self._challenge is None:
                return ""
            if self._challenge.scheme == "basic":
                return self._basic()
            return f"Bearer {self._token(self._challenge, scopes)}"

    def learn(self, response: Response, *, used: str, scopes: Sequence[str]) -> None:
        """Take in a 401 that came although ``used`` was sent as ``Authorization``; ``Refused`` if nothing is left."""
        found = {one.scheme: one for one in parse_challenges(response.headers.get_all("WWW-Authenticate", []))}
        challenge = found.get("bearer") or found.get("basic")
        if challenge is None:
            raise Refused(
                "it asks for credentials in a way that is not known" if found else "it does not say what it asks for",
                f"see whether {self._registry} is a registry, and what stands before it",
            )
        with self._lock:
            if used and not self._may_change(challenge, used, tuple(scopes)):
                raise self._refused()
            self._challenge = challenge

    def _may_change(self, challenge: Challenge, used: str, scopes: tuple[str, ...]) -> bool:
        """Whether another try can have another outcome: the token is too old, or the registry wants more of it."""
        if challenge.scheme != "bearer" or not used.startswith("Bearer "):
            return challenge.scheme == "bearer"
        token = self._tokens.get(scopes)
        if token is not None and used != f"Bearer {token.text}":
            return True  # another thread has a newer one
        self._tokens.pop(scopes, None)
        wanted = {*challenge.parameters.get("scope", "").split()} - {*scopes, *self._wanted.get(scopes, ())}
        if wanted:
            self._wanted[scopes] = (*self._wanted.get(scopes, ()), *sorted(wanted))
        return bool(wanted) or challenge.parameters.get("error") == "invalid_token"

    def _refused(self) -> Refused:
        login = f"log in with: docker login {self._registry}"
        if self._credentials is None:
            return Refused("it wants credentials, and there are none for it", f"{login} (or podman login)")
        return Refused(f"it refuses the credentials of {self._credentials.source}", login)

    def secrets(self) -> list[str]:
        """Every text that may be in no error."""
        with self._lock:
            own = self._credentials.secrets() if self._credentials else ()
            return [*own, *self._identities.secrets(), *(token.text for token in self._tokens.values() if token.text)]

    def _who(self) -> Credentials | None:
        if not self._looked:
            self._credentials = self._find()
            self._looked = True
        written = self._credentials
        if written is None or not written.identity_token:
            return written
        return replace(written, identity_token=self._identities.newest(self._registry, written.identity_token))

    def _basic(self) -> str:
        who = self._who()
        if who is None or not who.password:
            raise self._refused()
        return who.basic

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _token(self, challenge: Challenge, scopes: Sequence[str]) -> str:
        who = self._who()
        if who is not None and who.registry_token:
            return who.registry_token
        key = tuple(scopes)
        token = self._tokens.get(key)
        if token is None or token.expires <= self._clock():
            token = self._tokens[key] = self._fetch(challenge, (*key, *self._wanted.get(key, ())), who)
        return token.text

    def _fetch(self, challenge: Challenge, scopes: Sequence[str], who: Credentials | None) -> _Token:
        realm = address(challenge.parameters.get("realm", ""))
        if realm is None:
            raise Refused("it names no token server", f"see whether {self._registry} is a registry")
        if not self._may_hear(realm):
            raise Refused(
                f"its token server {urlsplit(realm).netloc} is to be reached over plain HTTP",
                f"add {urlsplit(realm).netloc} to capsule_insecure_registries if that is meant",
            )
        asked = self._clock()
        service = challenge.parameters.get("service", "")
        with self._send(_token_request(realm, service, scopes, who)) as response:
            if response.status in (400, 401, 403):
                raise self._refused()
            if response.status != 200:
                raise Refused(
                    f"its token server {urlsplit(realm).netloc} answered {response.status} {response.reason}",
                    "try again later",
                )
            token = _read_token(response, asked, urlsplit(realm).netloc)
        written = self._credentials.identity_token if self._credentials else ""
        if who is not None and written and token.identity_token not in ("", who.identity_token):
            self._identities.replace(self._registry, written, token.identity_token)
        return token


def _token_request(realm: str, service: str, scopes: Sequence[str], who: Credentials | None) -> Request:
    named = [("service", service)] if service else []
    if who is not None and who.identity_token:
        form = [
            ("grant_type", "refresh_token"),
            *named,
            ("client_id", AGENT),
            ("scope", " ".join(scopes)),
            ("refresh_token", who.identity_token),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("POST", realm, headers, urlencode(form).encode())
    query = urlencode([*named, *(("scope", scope) for scope in scopes)])
    separator = "&" if urlsplit(realm).query else "?"
    headers = {"Authorization": who.basic} if who is not None and who.password else {}
    return Request("GET", f"{realm}{separator}{query}", headers)


def _read_token(response: Response, asked: float, server: str) -> _Token:
    try:
        answer: Any = json.loads(response.read(_LARGEST_TOKEN))
        text = answer.get("token") or answer.get("access_token")
        lifetime = float(answer.get("expires_in") or _LIFETIME)
        newer = answer.get("refresh_token")
    except (ValueError, TypeError, AttributeError, RecursionError):
        text, lifetime, newer = None, 0.0, None
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise Refused(f"its token server {server} gave no token", "try again later")
    expires = asked + max(lifetime - _MARGIN, lifetime / 2)
    return _Token(text, expires, newer if isinstance(newer, str) else "")
