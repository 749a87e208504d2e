"""Where registries are reached: their real hosts, mirrors, and which may be reached without TLS."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pytest_capsule.errors import UsageError
from pytest_capsule.oci.reference import DEFAULT_DOMAIN

_MIRRORS, _INSECURE = "CAPSULE_REGISTRY_MIRRORS", "CAPSULE_INSECURE_REGISTRIES"
# Where Docker Hub answers, and what Docker's config files call it.
_HUB = "registry-1.docker.io"
HUB_ACCOUNT = "https://index.docker.io/v1/"
_NETLOC = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place where a registry's API may be: ``netloc`` is its host with the port, if not the scheme's own.

    ``account`` is the name under which credentials for it are kept.
    """

    scheme: str
    netloc: str
    account: str

    @property
    def url(self) -> str:
        """Its base: "https://registry-1.docker.io"."""
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What somebody has configured about registries.

    ``mirrors`` are hosts to try before a registry, by its domain. ``insecure`` are the hosts (with their port) and
    networks (``10.0.0.0/8``) that may be reached over plain HTTP, or over TLS with a certificate that nobody checks.
    Those on this machine's loopback may always, as for Docker.
    """

    mirrors: Mapping[str, Sequence[str]]
    insecure: frozenset[str]

    @classmethod
    def of(cls, mirrors: Mapping[str, Sequence[str]], insecure: Iterable[str]) -> RegistrySettings:
        """Read them as users write them; ``ValueError`` for what cannot be meant.

        A mirror is ``mirror.example:5000``, or ``http://mirror.example:5000`` for one without TLS.
        """
        kept = {domain: tuple(_mirror(text) for text in texts) for domain, texts in mirrors.items()}
        plain = {text.removeprefix("http://") for found in kept.values() for text in found if text.startswith("http:")}
        return cls(kept, frozenset(_insecure(text) for text in insecure) | plain)

    @classmethod
    def read(
        cls,
        mirrors: Mapping[str, Sequence[str]] | None,
        insecure: Iterable[str] | None,
        environment: Mapping[str, str],
    ) -> RegistrySettings:
        """Those that are given, else those of the environment; ``UsageError`` says which are wrong."""
        with _named("registry_mirrors" if mirrors is not None else _MIRRORS):
            mirrors = read_mirrors(environment.get(_MIRRORS, "")) if mirrors is None else mirrors
            settings = cls.of(mirrors, ())
        with _named("insecure_registries" if insecure is not None else _INSECURE):
            insecure = read_insecure(environment.get(_INSECURE, "")) if insecure is None else insecure
            return cls.of(settings.mirrors, insecure)

    def mirror_places(self, domain: str) -> list[tuple[Endpoint, ...]]:
        """Where to read from before the registry itself."""
        return [self._place(*text.rpartition("://")[::2]) for text in self.mirrors.get(domain, ())]

    def own_place(self, domain: str) -> tuple[Endpoint, ...]:
        """The registry itself: with TLS, and where this may be, plainly if it does not speak TLS."""
        return (Endpoint("https", _HUB, HUB_ACCOUNT),) if domain == DEFAULT_DOMAIN else self._place("", domain)

    def _place(self, scheme: str, netloc: str) -> tuple[Endpoint, ...]:
        schemes = (scheme,) if scheme else ("https", "http") if self.is_insecure(netloc) else ("https",)
        return tuple(Endpoint(scheme, netloc, account=netloc) for scheme in schemes)

    def is_insecure(self, netloc: str) -> bool:
        """Whether a host may be spoken to without TLS. Names are not looked up: whoever answers for one may change."""
        if netloc in self.insecure:
            return True
        host = urlsplit(f"//{netloc}").hostname or ""
        if host == "localhost" or host in self.insecure:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        networks = (ipaddress.ip_network(text) for text in self.insecure if "/" in text)
        return address.is_loopback or any(address in network for network in networks)


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None


def read_mirrors(text: str) -> dict[str, tuple[str, ...]]:
    """The mirrors of an ini file or the environment: ``REGISTRY=MIRROR``, several by commas or lines."""
    mirrors: dict[str, tuple[str, ...]] = {}
    for item in _items(text):
        registry, equals, mirror = (part.strip() for part in item.partition("="))
        if not (registry and equals and mirror):
            raise ValueError(
                f"each is REGISTRY=MIRROR, such as docker.io=mirror.local:5000, and {_without_user(item)!r} is not"
            )
        mirrors[registry] = (*mirrors.get(registry, ()), _mirror(mirror))
    return mirrors


def read_insecure(text: str) -> tuple[str, ...]:
    """The insecure registries of an ini file or the environment: ``HOST:PORT``, several by commas or lines."""
    return tuple(_insecure(item) for item in _items(text))


def _items(text: str) -> Iterator[str]:
    return (item.strip() for item in re.split(r"[,\n]", text) if item.strip())


def _mirror(text: str) -> str:
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme not in ("http", "https") or not _NETLOC.fullmatch(parts.netloc) or parts.path.strip("/"):
        raise ValueError(
            f"a mirror is HOST, HOST:PORT or http://HOST:PORT, and {_without_user(text)!r} is none; "
            "credentials belong into ~/.docker/config.json"
        )
    return text.rstrip("/")


def _insecure(text: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_network(text)) if "/" in text else _host(text)
    raise ValueError(f"each is a registry, HOST or HOST:PORT, or a network, and {_without_user(text)!r} is none")


def _host(text: str) -> str:
    if _NETLOC.fullmatch(text) is None:
        raise ValueError(text)
    return text


def _without_user(text: str) -> str:
    return re.sub(r"[^/@]*@", "", text)
