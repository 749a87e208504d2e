"""One registry's API: requests with what it asks for, redirects followed, and tried again where that can help."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from pytest_capsule.errors import RegistryError
from pytest_capsule.oci.reference import DEFAULT_DOMAIN
from pytest_capsule.registry.auth import Authorizer, IdentityTokens, Refused
from pytest_capsule.registry.patience import TEMPORARY, Patience, seconds_asked
from pytest_capsule.registry.settings import HUB_ACCOUNT, Endpoint, RegistrySettings
from pytest_capsule.registry.transport import Body, ConnectionFailed, Request, Response, Transport, address

if TYPE_CHECKING:
    from pytest_capsule.registry.credentials import Credentials

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_MOST_CHALLENGES = 3
_ERROR_READ = 1 << 16
_ERROR_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of a registry: ``target`` is a path of its API, or a URL that it has given.

    ``subject`` says in errors what for ("pull of quay.io/app:1"), ``scopes`` what a token must allow, ``expect`` which
    statuses are an answer. ``once``: not to be tried again here.
    """

    subject: str
    method: str
    target: str
    scopes: Sequence[str] = ()
    expect: Collection[int] = (200,)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Body | None = None
    once: bool = False


class Broken(RegistryError):
    """The connection broke, or never came about: another try may do better."""


class Host:
    """A registry, reached at the first of ``endpoints`` that answers. Safe from any thread."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        transport: Transport,
        settings: RegistrySettings,
        patience: Patience,
        find_credentials: Callable[[str], Credentials | None],
        identities: IdentityTokens,
    ) -> None:
        self.name = endpoints[0].netloc
        self._endpoints = endpoints
        self._transport = transport
        self._settings = settings
        self._patience = patience
        self._authorizer = Authorizer(
            DEFAULT_DOMAIN if endpoints[0].account == HUB_ACCOUNT else self.name,
            send=self._ask_token_server,
            may_hear=self._may_be_asked,
            find=lambda: find_credentials(endpoints[0].account),
            identities=identities,
        )
        self._found: Endpoint | None = None
        self._lock = threading.Lock()

    def call(self, call: Call) -> Response:
        """Ask, and return an answer with one of the expected statuses; ``RegistryError`` for every other outcome."""
        url = urljoin(f"{self._endpoint(call).url}/", call.target)
        failures = 0
        while True:
            try:
                response = self._authorized(call, url)
            except ConnectionFailed as failure:
                failures += 1
                if call.once or failure.lasting or not self._patience.pause(failures):
                    raise self._unreached(call, url, failure) from None
                continue
            if response.status in call.expect:
                return response
            with response:
                error = self._error(call, response)
                asked = seconds_asked(response.headers.get("Retry-After"))
            failures += 1
            if call.once or response.status not in TEMPORARY or not self._patience.pause(failures, asked):
                raise error

    # -- the first contact --------------------------------------------------------------------------------------------

    def _endpoint(self, call: Call) -> Endpoint:
        """The endpoint that answers at all, found out once; its challenge is known from then on."""
        with self._lock:
            if self._found is None:
                self._found = self._contact(call)
            return self._found

    def _contact(self, call: Call) -> Endpoint:
        failures = 0
        while True:
            for endpoint in self._endpoints:
                url = f"{endpoint.url}/v2/"
                try:
                    with self._transport.send(Request("GET", url)) as response:
                        if response.status == 401:
                            self._learn(replace(call, method="GET"), response, used="")
                        return endpoint
                except ConnectionFailed as failure:
                    last = self._unreached(replace(call, method="GET"), url, failure)
                    lasting = failure.lasting
            failures += 1
            if lasting or not self._patience.pause(failures):
                raise last

    # -- one request --------------------------------------------------------------------------------------------------

    def _authorized(self, call: Call, url: str) -> Response:
        for _ in range(_MOST_CHALLENGES):
            used = self._authorization(call, url)
            headers = {**call.headers, **({"Authorization": used} if used else {})}
            response = self._follow(call, Request(call.method, url, headers, call.body))
            if response.status != 401 or not self._is_own(response.url):
                return response
            with response:
                self._learn(call, response, used)
        return response

    def _authorization(self, call: Call, url: str) -> str:
        if not self._is_own(url):
            return ""
        try:
            return self._authorizer.header(call.scopes)
        except Refused as refused:
            raise self._refused(call, url, refused) from None

    def _learn(self, call: Call, response: Response, used: str) -> None:
        try:
            self._authorizer.learn(response, used=used, scopes=call.scopes)
        except Refused as refused:
            raise self._refused(call, response.url, refused) from None

    def _follow(self, call: Call, request: Request) -> Response:
        """Send a request and go where it is sent on to; what is a secret stays here."""
        for _ in range(_MOST_REDIRECTS):
            response = self._transport.send(request)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None or request.body is not None:
                return response
            response.close()
            url = self._checked(call, request.url, location)
            headers = {name: value for name, value in request.headers.items() if name != "Authorization"}
            request = replace(request, url=url, headers=dict(request.headers) if self._is_own(url) else headers)
        raise self.wrong(call, request.url, f"it redirects more than {_MOST_REDIRECTS} times")

    def _checked(self, call: Call, url: str, location: str) -> str:
        """The URL that a ``Location`` means, if it may be followed."""
        target = address(location, url)
        if target is None:
            raise self.wrong(call, url, "it redirects to what is no address of HTTP")
        if not self._may_be_asked(target):
            place = _netloc(urlsplit(target))
            raise self.wrong(
                call,
                url,
                f"it redirects to {place} over plain HTTP",
                hint=f"add {place} to capsule_insecure_registries if that is meant",
            )
        return target

    def location(self, call: Call, response: Response) -> str:
        """The URL where an upload goes on, as its answer says."""
        location = response.headers.get("Location")
        if not location:
            raise self.wrong(call, response.url, "it does not say where the upload goes on")
        return self._checked(call, response.url, location)

    def _is_own(self, url: str) -> bool:
        parts = urlsplit(url)
        return any((parts.scheme, parts.netloc) == (one.scheme, one.netloc) for one in self._own())

    def _own(self) -> Sequence[Endpoint]:
        return self._endpoints if self._found is None else (self._found,)

    def _may_be_asked(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme == "https" or self._settings.is_insecure(_netloc(parts))

    def _ask_token_server(self, request: Request) -> Response:
        failures = 0
        while True:
            try:
                response = self._transport.send(request)
            except ConnectionFailed as failure:
                failures += 1
                if failure.lasting or not self._patience.pause(failures):
                    server = _netloc(urlsplit(request.url))
                    raise Refused(
                        f"its token server {server} cannot be reached: {failure.reason}", f"see whether {server} is up"
                    ) from None
                continue
            failures += 1
            asked = seconds_asked(response.headers.get("Retry-After"))
            if response.status not in TEMPORARY or not self._patience.pause(failures, asked):
                return response
            response.close()

    # -- errors -------------------------------------------------------------------------------------------------------

    def wrong(self, call: Call, url: str, reason: str, *, hint: str | None = None) -> RegistryError:
        """The error for an answer that cannot be right."""
        return self._make_error(call, url, reason, hint=hint or f"see whether {self.name} is in order")

    def _unreached(self, call: Call, url: str, failure: ConnectionFailed) -> RegistryError:
        hint = f"see whether {self.name} is right and can be reached from here"
        if "certificate" in failure.reason:
            hint = f"put its authority into /etc/docker/certs.d/{self.name}/ca.crt, or name it with SSL_CERT_FILE"
        elif failure.reason.startswith("TLS failed"):
            hint = f"if it speaks plain HTTP, add {self.name} to capsule_insecure_registries"
        kind = RegistryError if failure.lasting else Broken
        return self._make_error(call, url, failure.reason, hint=hint, kind=kind)

    def _refused(self, call: Call, url: str, refused: Refused) -> RegistryError:
        return self._make_error(call, url, refused.reason, status=401, hint=refused.hint)

    def _error(self, call: Call, response: Response) -> RegistryError:
        said = self._without_secrets(_said(response))
        reason = f"it answered {response.status} {_plain(response.reason)}{f': {said}' if said else ''}"
        return self._make_error(
            call, response.url, reason, status=response.status, hint=_hint(response.status, self.name)
        )

    def _make_error(
        self,
        call: Call,
        url: str,
        reason: str,
        *,
        hint: str,
        status: int | None = None,
        kind: type[RegistryError] = RegistryError,
    ) -> RegistryError:
        parts = urlsplit(url)
        shown = f"{call.method} {parts.scheme}://{_netloc(parts)}{parts.path}"
        return kind(
            f"{call.subject}: registry {self.name}: {reason} ({shown})",
            registry=self.name,
            call=shown,
            status=status,
            hint=hint,
        )

    def _without_secrets(self, text: str) -> str:
        """A registry could send back what it was told."""
        for secret in self._authorizer.secrets():
            text = text.replace(secret, "***")
        return text


def _said(response: Response) -> str:
    """What the body of an error says: distribution's ``errors``, else nothing (a proxy's web page is no help)."""
    try:
        errors = json.loads(response.read(_ERROR_READ))["errors"]
        texts = [": ".join(str(one[key]) for key in ("code", "message") if one.get(key)) for one in errors]
    except (ConnectionFailed, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return _plain("; ".join(texts))


def _plain(text: str) -> str:
    """Text of somebody else, fit for a terminal."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown if len(shown) <= _ERROR_SHOWN else f"{shown[:_ERROR_SHOWN]}..."


def _hint(status: int, registry: str) -> str:
    if status in (401, 403):
        return f"log in as somebody who may (docker login {registry}), or see whether the name is right"
    if status == 404:
        return "see whether name and tag are right, and whether it is private"
    if status == 429:
        return "wait, log in for a higher limit, or use a mirror (capsule_registry_mirrors)"
    return f"try again later, or ask who runs {registry}" if status >= 500 else f"ask who runs {registry}"


def _netloc(parts: SplitResult) -> str:
    """Host and port, without a user."""
    return parts.netloc.rpartition("@")[2]
