"""Secrets of others, such as a tool server's token, as they are stored: sealed, for one place.

AES-256-GCM (NIST SP 800-38D) under a key that HKDF (RFC 5869) makes of `TURNKEEP_KEY_PEPPER`: a
copy of the database alone gives nothing away. With another pepper nothing can be opened any more,
as no API key is known any more.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_PURPOSE: Final = b"turnkeep sealed secrets 1"


class SealBroken(Exception):
    """What is stored was sealed under another pepper, for another place, or was changed."""


class Sealer:
    """Seals and opens. `place` says whose secret it is; elsewhere it cannot be opened."""

    def __init__(self, pepper: bytes) -> None:
        key = HKDF(SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE).derive(pepper)
        self._cipher = AESGCM(key)

    def seal(self, secret: str, place: str) -> bytes:
        """Version, nonce and ciphertext; never the same twice."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, secret.encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        """The secret again.

        Raises:
            SealBroken: it cannot be had.
        """
        version, nonce = sealed[:1], sealed[1 : 1 + _NONCE_BYTES]
        if version != _VERSION:
            raise SealBroken(f"version {version.hex()}")
        try:
            secret = self._cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], place.encode())
        except (InvalidTag, ValueError):
            raise SealBroken("not ours, or not from here") from None
        return secret.decode()
