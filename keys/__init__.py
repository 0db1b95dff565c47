"""Sealing one value and many: the ciphertext format, logical types, masks and the key hierarchy."""
