"""The dam leaves nothing behind at the server: a session of its own would meet later tests."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.faults.dam import Dam


@pytest.mark.parametrize("how", ["reset", "end of the test"])
def test_the_server_s_side_ends(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        dam = Dam(listening.getsockname()[1])
        with dam:
            client = socket.create_connection(("127.0.0.1", dam.port))
            server, _ = listening.accept()
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                server.settimeout(30)
                assert server.recv(1) == b""
        with server, client:
            server.settimeout(30)
            assert server.recv(1) == b""
