"""TLS contexts of both legs, and the question whether SCRAM channel binding holds across them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config import Server, Tls

# PostgreSQL 17 registered it; direct TLS requires it (55.2.10).
ALPN: Final = "postgresql"


class Encryption(Enum):
    """What one attempt to reach the server asks for."""

    PLAIN = "plain"
    OFFERED = "offered"  # TLS if the server has it
    TLS = "tls"


_LADDER: Final[dict[str, tuple[Encryption, ...]]] = {
    "disable": (Encryption.PLAIN,),
    "allow": (Encryption.PLAIN, Encryption.TLS),
    "prefer": (Encryption.OFFERED, Encryption.PLAIN),
    "require": (Encryption.TLS,),
    "verify-ca": (Encryption.TLS,),
    "verify-full": (Encryption.TLS,),
}


def ladder(sslmode: str, *, unix: bool) -> tuple[Encryption, ...]:
    """The attempts that a mode allows, in libpq's order (libpq, 32.19.3). A Unix socket is never encrypted, as in libpq."""
    return (Encryption.PLAIN,) if unix else _LADDER[sslmode]


@dataclass(frozen=True, slots=True)
class ClientSide:
    """TLS as a server towards clients. `certificate`: the leaf, DER."""

    context: ssl.SSLContext
    certificate: bytes


def client_side(settings: Tls) -> ClientSide | None:
    """The context for clients; None where there is no certificate. Raises ConfigError for files that cannot be used."""
    if settings.certificate is None or settings.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _minimum(context, settings.minimum_version)
    context.set_alpn_protocols([ALPN])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_pair(context, settings.certificate, settings.key)
    if settings.client_ca is not None:
        _load_authorities(context, settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return ClientSide(context, _leaf(settings.certificate))


def server_side(settings: Server) -> ssl.SSLContext:
    """The context towards the PostgreSQL server: what sslmode verifies, as in libpq.

    As there, a root certificate makes every mode verify the chain; only verify-full compares the host name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    context.check_hostname = settings.sslmode == "verify-full"
    if settings.root_certificate is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        # A private authority's file often holds an intermediate or the server's own certificate, as libpq accepts.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if isinstance(settings.root_certificate, str):
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            _load_authorities(context, settings.root_certificate)
    if settings.certificate is not None and settings.key is not None:
        _load_pair(context, settings.certificate, settings.key)
    return context


def same_channel(client: ClientSide | None, server: ssl.SSLObject | None) -> bool:
    """Whether tls-server-end-point (RFC 5929, 4) is the same on both legs: pgveil shows the certificate that the server shows."""
    if client is None or server is None:
        return False
    return server.getpeercert(binary_form=True) == client.certificate


def expiry(certificate: Path) -> float | None:
    """Until when the first certificate of a file is good, as Unix time; None where it can't be read."""
    try:
        return x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None


def _minimum(context: ssl.SSLContext, version: str) -> None:
    context.minimum_version = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[version]


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:
        raise ConfigError(f"{key}: the private key is encrypted: store it in plain, readable by pgveil's account only")

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except OSError as error:
        raise ConfigError(f"{certificate}, {key}: not a certificate and its private key: {_why(error)}") from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ConfigError(f"{path}: not a PEM file of certificates: {_why(error)}") from None


def _why(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "unreadable"


def _leaf(path: Path) -> bytes:
    """The first certificate of the file, which is the one that is shown."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0].public_bytes(Encoding.DER)
    except (OSError, ValueError):
        raise ConfigError(f"{path}: not a PEM file of certificates") from None
