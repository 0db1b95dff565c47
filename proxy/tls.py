"""TLS contexts of both legs, and the question whether SCRAM channel binding holds across them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.alerts import AlertingContext
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
    """TLS as a server towards clients. `certificate`: the leaf, DER. `until`: when it expires, as Unix time."""

    context: ssl.SSLContext
    certificate: bytes
    until: float


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a certificate was not accepted: a word for the log, and what is told, without the name or address of anybody."""

    word: str
    told: str
    hint: str


_UNKNOWN_CA: Final = Distrust(
    "unknown_authority",
    "is of an authority that pgveil does not know",
    "Put the authority's certificate into the file that server.root_certificate names, and run pgveil reload.",
)
_WRONG_NAME: Final = Distrust(
    "wrong_name",
    "is for another host than the one that pgveil connects to",
    "Name the host in server.hosts as the certificate does, or issue one for that name.",
)
# By OpenSSL's X509_V_ERR_ numbers (x509_vfy.h). Its own sentences name the host, which is nobody's business in front of pgveil.
_DISTRUST: Final = MappingProxyType(
    {
        9: Distrust(
            "not_yet_valid", "is not valid yet", "Compare the clocks of pgveil's machine and of the authority."
        ),
        10: Distrust("expired", "has expired", "Give the PostgreSQL server a new certificate."),
        **dict.fromkeys((2, 18, 19, 20, 21, 27), _UNKNOWN_CA),
        23: Distrust("revoked", "was revoked", "Give the PostgreSQL server a new certificate."),
        **dict.fromkeys((62, 64), _WRONG_NAME),
    }
)
_OTHERWISE: Final = Distrust("unverified", "can't be verified", "pgveil's log says more.")


def distrust(error: OSError) -> Distrust | None:
    """Why the server's certificate was not accepted; None where a handshake failed for another reason."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    return _DISTRUST.get(error.verify_code, _OTHERWISE)


def failure_word(error: BaseException | None) -> str:
    """What a failed handshake failed by, in OpenSSL's own word, for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _DISTRUST.get(error.verify_code, _OTHERWISE).word
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower()[:64]
    return (
        "closed" if isinstance(error, ConnectionError) else "timeout" if isinstance(error, TimeoutError) else "failed"
    )


def client_side(settings: Tls) -> ClientSide | None:
    """The context for clients; None where there is no certificate. Raises ConfigError for files that cannot be used."""
    if settings.certificate is None or settings.key is None:
        return None
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER)
    _minimum(context, settings.minimum_version)
    context.set_alpn_protocols([ALPN])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_pair(context, settings.certificate, settings.key)
    if settings.client_ca is not None:
        _load_authorities(context, settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    leaf = _leaf(settings.certificate)
    return ClientSide(context, leaf.public_bytes(Encoding.DER), leaf.not_valid_after_utc.timestamp())


def refuse_expired(certificate: Path | None, until: float | None, now: float) -> None:
    """A certificate that comes into force, at the start or by a reload, is good. Raises ConfigError."""
    if until is not None and until < now:
        raise ConfigError(f"{certificate}: the certificate has expired: put a new one in its place")


def server_side(settings: Server) -> ssl.SSLContext:
    """The context towards the PostgreSQL server: what sslmode verifies, as in libpq.

    As there, a root certificate makes every mode verify the chain; only verify-full compares the host name.
    """
    context = AlertingContext(ssl.PROTOCOL_TLS_CLIENT)
    _minimum(context, "TLSv1.2")
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


def _leaf(path: Path) -> x509.Certificate:
    """The first certificate of the file, which is the one that is shown."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError):
        raise ConfigError(f"{path}: not a PEM file of certificates") from None
