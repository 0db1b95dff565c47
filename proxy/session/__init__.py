"""Sans-I/O state of one proxied connection: bytes in, effects out."""
