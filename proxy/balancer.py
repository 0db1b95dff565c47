"""The PROXY protocol, versions 1 and 2: which client a load balancer speaks for (haproxy.org, proxy-protocol.txt).

Only balancers that the configuration names are believed, and from them a header is required: a connection that could come with one or without
would let whoever reaches the port choose his address. Anybody else's first bytes are read as PostgreSQL's, so a header of theirs is an error.
The header is parsed by the library `proxy-protocol`; here it is taken off the socket, and nothing behind it, before TLS begins.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Final

from proxyprotocol import ProxyProtocolIncompleteError
from proxyprotocol.detect import ProxyProtocolDetect

if TYPE_CHECKING:
    import socket

    from proxyprotocol.result import ProxyResult

    from proxy.config import Network

# Version 1 has 107 bytes at most; version 2 may carry 64 KiB of extensions, of which balancers send some hundred bytes.
MAX_HEADER: Final = 4096  # bytes
MAX_LINE: Final = 107  # bytes


class HeaderError(Exception):
    """What came is no header that can be believed. The text quotes nothing of it."""


def speaks_for_others(address: object, balancers: tuple[Network, ...]) -> bool:
    """Whether a connection from there has to begin with a header."""
    if not balancers or not isinstance(address, tuple):
        return False
    peer = ipaddress.ip_address(str(address[0]).partition("%")[0])
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return any((mapped or peer) in network for network in balancers)


async def client_behind(sock: socket.socket, address: object) -> object:
    """Take the header off a connection: the client's address, or the balancer's own where it speaks for itself (LOCAL, UNKNOWN).

    Raises HeaderError, EOFError where the connection ended before its first byte (a balancer looks whether the port is open), OSError.
    """
    head = bytearray()
    parser = ProxyProtocolDetect()
    while True:
        try:
            return _told(parser.unpack(bytes(head)), address)
        except ProxyProtocolIncompleteError as incomplete:
            wanted = incomplete.want_read
            count = 1 if wanted.want_line else wanted.want_bytes or 1
        except Exception:  # noqa: BLE001 - the library's errors, and struct's and ipaddress's that it lets through: all say the same
            raise HeaderError("the PROXY protocol's header can't be read, or is not there") from None
        if len(head) + count > (MAX_LINE if wanted.want_line else MAX_HEADER):
            raise HeaderError("the PROXY protocol's header is too long")
        head += await _exactly(sock, count, first=not head)


async def _exactly(sock: socket.socket, count: int, *, first: bool) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(sock, count - len(data))
        if not part:
            if first and not data:
                raise EOFError
            raise HeaderError("the connection ended within the PROXY protocol's header")
        data += part
    return bytes(data)


def _told(result: ProxyResult, address: object) -> object:
    name = result.peername
    if not result.proxied or not isinstance(name, tuple):
        return address
    return (str(name[0]), int(name[1]))
