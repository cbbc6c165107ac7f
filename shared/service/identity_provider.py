"""Tokens of an identity provider: signed JWTs, verified against its published keys.

What may sign is decided here and never by the token (RFC 8725): the algorithms are configured, the
keys come from the configured place alone, and a key fits one algorithm. `jku`, `x5u` and an
embedded `jwk` are not read.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from typing import Any, Final, Self

import jwt
import orjson

from shared.errors import NotAuthenticated
from shared.service.identity import MAX_TOKEN_CHARS, Identity, looks_like_token
from shared.service.provider_keys import ProviderKeys, source_of
from shared.settings import Settings

LEEWAY_S: Final = 60
_MAX_CLAIM_CHARS: Final = 255
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})


class IdentityProvider:
    """One issuer whose tokens are taken."""

    def __init__(
        self, settings: Settings, keys: ProviderKeys, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The issuer of this deployment."""
        return cls(settings, ProviderKeys(source_of(settings)))

    @property
    def makes_users(self) -> bool:
        return self._settings.jwt_auto_provision

    async def close(self) -> None:
        """Ends what is under way."""
        await self._keys.close()

    async def verify(self, token: str) -> Identity:
        """Whom a token names.

        Raises:
            NotAuthenticated: anything about it is wrong.
            IdentityProviderUnavailable: no keys are known to check it with.
        """
        header = _read_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        kind = header.get("typ", "jwt")
        if not isinstance(algorithm, str) or algorithm not in self._settings.jwt_algorithms:
            raise NotAuthenticated("algorithm")
        if "crit" in header:
            raise NotAuthenticated("critical headers")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise NotAuthenticated("type")
        if key_id is not None and not isinstance(key_id, str):
            raise NotAuthenticated("key id")
        key = await self._keys.find(algorithm, key_id)
        if key is None:
            raise NotAuthenticated("no such key")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise NotAuthenticated(type(error).__name__) from None
        return self._identity_of(claims)

    def _identity_of(self, claims: dict[str, Any]) -> Identity:
        settings = self._settings
        expires_at = claims["exp"]
        if type(expires_at) not in (int, float):
            raise NotAuthenticated("exp")
        # Not "greater than": no comparison holds for NaN, and no float holds 10**400.
        if not expires_at <= self._clock() + settings.jwt_max_validity_s + LEEWAY_S:
            raise NotAuthenticated("valid for too long")
        claim = settings.jwt_tenant_claim
        tenant = settings.jwt_tenant if claim is None else _text_of(claims.get(claim))
        subject = _text_of(claims["sub"])
        if tenant is None or subject is None:
            raise NotAuthenticated("sub or tenant")
        is_verified = claims.get("email_verified") is True
        return Identity(
            issuer=claims["iss"],
            tenant=tenant,
            subject=subject,
            email=_text_of(claims.get("email")) if is_verified else None,
            name=_text_of(claims.get("name")),
            expires_at=float(expires_at) + LEEWAY_S,
        )


def _read_header(token: str) -> dict[str, Any]:
    """The first part, unverified: it only says which key to try.

    Raises:
        NotAuthenticated: it is not that of a JWT.
    """
    if len(token) > MAX_TOKEN_CHARS or not looks_like_token(token):
        raise NotAuthenticated("form")
    part = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError):
        raise NotAuthenticated("form") from None
    if not isinstance(header, dict):
        raise NotAuthenticated("form")
    return header


def _text_of(value: Any) -> str | None:
    """A claim that can be stored and compared; None for all else."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_CLAIM_CHARS:
        return None
    return value if value.isprintable() else None
