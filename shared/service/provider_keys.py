"""The public keys of an identity provider (JWK Set, RFC 7517), from a file or an address.

They are kept, and read again once an hour, or when a token names a key that is not among them: at
most every 30 s then, so that invented names ask nobody.
"""

from __future__ import annotations

import asyncio
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.errors import IdentityProviderUnavailable
from shared.settings import Settings

log = structlog.get_logger(__name__)

REFRESH_AFTER_S: Final = 3600.0
LEARN_EVERY_S: Final = 30.0
TOO_OLD_S: Final = 86_400.0
MAX_BYTES: Final = 262_144
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
_READ_TIMEOUT_S: Final = 5.0
_TOTAL_TIMEOUT_S: Final = 10.0

Source = Callable[[], Awaitable[bytes]]
"""Reads the key set.

Raises OSError, ValueError or TimeoutError when it cannot.
"""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key, and the one algorithm it is for."""

    id: str | None
    algorithm: str
    key: Any


class ProviderKeys:
    """The keys as they were last read."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._keys: list[PublicKey] = []
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, key_id: str | None) -> Any:
        """The key of this name for this algorithm; None when there is none.

        A token without a name is checked with the only key of its algorithm, if there is only one.

        Raises:
            IdentityProviderUnavailable: no keys are known, or they are a day old.
        """
        age_s = self._age_s()
        if age_s >= TOO_OLD_S:
            await self._read_if_due()
            if self._age_s() >= TOO_OLD_S:
                raise IdentityProviderUnavailable("the identity provider's keys cannot be read")
        elif age_s >= REFRESH_AFTER_S:
            self._start_reading_if_due()  # and nobody waits for it
        found = self._look_up(algorithm, key_id)
        if found is None and key_id is not None:
            await self._read_if_due()
            found = self._look_up(algorithm, key_id)
        return found

    async def close(self) -> None:
        """Ends a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _age_s(self) -> float:
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    def _look_up(self, algorithm: str, key_id: str | None) -> Any:
        fitting = [
            known.key
            for known in self._keys
            if known.algorithm == algorithm and key_id in (None, known.id)
        ]
        return fitting[0] if len(fitting) == 1 else None

    async def _read_if_due(self) -> None:
        self._start_reading_if_due()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _start_reading_if_due(self) -> None:
        now = self._clock()
        is_due = self._tried_at is None or now - self._tried_at >= LEARN_EVERY_S
        if self._reading is None and is_due:
            self._tried_at = now
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(_TOTAL_TIMEOUT_S):
                self._keys = parse_keys(await self._source())
            self._read_at = self._clock()
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("identity_provider.keys_unreadable", error=type(error).__name__)
        except Exception:  # nobody waits for this task who could tell; the old keys go on
            log.exception("identity_provider.keys_unreadable")
        finally:
            self._reading = None


def parse_keys(data: bytes) -> list[PublicKey]:
    """The usable keys of a JWK Set; others in it are left out.

    Raises:
        ValueError: not a JWK Set.
    """
    if len(data) > MAX_BYTES:
        raise ValueError("too large")
    document = orjson.loads(data)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("not a JWK Set")
    found = [_parse_key(entry) for entry in entries if isinstance(entry, dict)]
    return [key for key in found if key is not None]


def _parse_key(entry: dict[str, Any]) -> PublicKey | None:
    """A public key for signatures; None for what is secret, weak or for something else."""
    key_id = entry.get("kid")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or "d" in entry or "k" in entry:
        return None
    if not (key_id is None or isinstance(key_id, str)):
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = jwt.PyJWK(entry).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
    algorithm = _algorithm_of(key)
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    return PublicKey(key_id, algorithm, key)


def _algorithm_of(key: Any) -> str | None:
    match key:
        case RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return "RS256"
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256"
        case Ed25519PublicKey():
            return "EdDSA"
        case _:
            return None


# -- where they come from


def source_of(settings: Settings) -> Source:
    """What reads the keys of this deployment's issuer, from where its operator says."""
    if settings.jwt_jwks_file is not None:
        path = settings.jwt_jwks_file
        return lambda: asyncio.to_thread(_read_file, path)
    url = settings.jwt_jwks_url or ""
    return lambda: asyncio.to_thread(_fetch, url)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _fetch(url: str) -> bytes:
    """One GET without redirects. The scheme was checked with the settings.

    Raises:
        OSError: nobody answers, or with an error.
        ValueError: the answer is too large, too slow, or not HTTP.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310 - see above
    began = time.monotonic()
    pieces: list[bytes] = []
    try:
        with opener.open(request, timeout=_READ_TIMEOUT_S) as answer:
            while piece := answer.read1(65_536):
                pieces.append(piece)
                size = sum(map(len, pieces))
                if size > MAX_BYTES or time.monotonic() - began > _TOTAL_TIMEOUT_S:
                    raise ValueError("too large or too slow")
    except http.client.HTTPException as error:
        raise ValueError(f"not an answer of HTTP: {type(error).__name__}") from error
    return b"".join(pieces)
