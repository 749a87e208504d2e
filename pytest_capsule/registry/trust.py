"""Whose certificates are believed: the system's, the environment's, and those of a registry's ``certs.d`` folder."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_capsule.errors import UsageError

_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Trust:
    """Makes TLS contexts, one for each registry.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` replace the system's authorities. In ``certs.d/HOST[:PORT]/`` of Docker's
    and podman's folders lie further ones (``*.crt``) and client certificates (``*.cert`` with ``*.key``).
    """

    def __init__(self, environment: Mapping[str, str], home: Path) -> None:
        self._environment = environment
        self._folders = (
            Path("/etc/docker/certs.d"),
            Path("/etc/containers/certs.d"),
            home / ".config/docker/certs.d",
            home / ".config/containers/certs.d",
        )
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, registry: str, *, verify: bool) -> ssl.SSLContext:
        """The context for connections to a registry, by its folder's name. ``UsageError`` for files that are none."""
        with self._lock:
            if (registry, verify) not in self._contexts:
                self._contexts[registry, verify] = self._make(registry, verify)
            return self._contexts[registry, verify]

    def _make(self, registry: str, verify: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._load_authorities(context)
        for folder in self._folders_of(registry):
            for path in sorted(folder.glob("*.crt")):
                _load(path, lambda path=path: context.load_verify_locations(path))
            for path in sorted(folder.glob("*.cert")):
                _load(path, lambda path=path: context.load_cert_chain(path, path.with_suffix(".key")))
        return context

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        file, folder = self._environment.get("SSL_CERT_FILE"), self._environment.get("SSL_CERT_DIR")
        if file or folder:
            _load(Path(file or folder or ""), lambda: context.load_verify_locations(file or None, folder or None))
            return
        context.load_default_certs()
        if not context.get_ca_certs():  # a Python built elsewhere looks in a place that this machine has not
            for bundle in _SYSTEM_BUNDLES:
                if Path(bundle).is_file():
                    context.load_verify_locations(bundle)
                    return

    def _folders_of(self, registry: str) -> Iterator[Path]:
        for folder in self._folders:
            if (folder / registry).is_dir():
                yield folder / registry


def _load(path: Path, load: object) -> None:
    assert callable(load)
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"the certificates of {path} cannot be read: {reason}",
            hint="it is a file in PEM form; a client's NAME.cert needs a NAME.key beside it",
        ) from None
