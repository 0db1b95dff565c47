"""What is seen on the network side: certificates of pgveil's, and the one that the server shows."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.errors import ConfigError
from proxy.tls import client_side

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from proxy.config import Address, Config

_SECONDS: Final = 5.0
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)  # PostgreSQL 55.2.10
MIN_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate: where it was found, how long it is good, whether its key is too short."""

    place: str
    begins: datetime
    ends: datetime
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """Certificates, and what is wrong with the files. `server`: the certificate that the first host shows; None: it shows none."""

    certificates: tuple[Certificate, ...]
    client_problem: str | None
    server: Certificate | None


def read_wire(config: Config) -> Wire:
    """The certificates of the configuration, and the server's. Raises nothing."""
    places = [("tls.certificate", config.tls.certificate), ("server.certificate", config.server.certificate)]
    root = config.server.root_certificate
    if root is not None and not isinstance(root, str):
        places.append(("server.root_certificate", root))
    if config.tls.client_ca is not None:
        places.append(("tls.client_ca", config.tls.client_ca))
    found = [certificate for name, path in places if path is not None for certificate in _from_file(name, path)]
    problem = None
    try:
        client_side(config.tls)
    except ConfigError as error:
        problem = str(error)
    return Wire(tuple(found), problem, shown_by(config.server.hosts[0]))


def _from_file(name: str, path: Path) -> list[Certificate]:
    with suppress(OSError, ValueError):
        return [_certificate(f"{name} ({path})", c) for c in x509.load_pem_x509_certificates(path.read_bytes())]
    return []


def _certificate(place: str, found: x509.Certificate) -> Certificate:
    key = found.public_key()
    weak = isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS
    return Certificate(place, found.not_valid_before_utc, found.not_valid_after_utc, weak)


def shown_by(address: Address) -> Certificate | None:
    """The certificate that a server shows to whoever asks; nothing is verified here. None: no TLS, or nobody there."""
    if address.unix_path is not None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, ValueError):
        with socket.create_connection((address.host, address.port), _SECONDS) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain) as secured:
                shown = secured.getpeercert(binary_form=True)
        return None if shown is None else _certificate(f"{address}", x509.load_der_x509_certificate(shown))
    return None
