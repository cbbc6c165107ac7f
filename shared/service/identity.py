"""Whom a token of an identity provider names, and what such a token looks like.

Apart from what verifies it, which weighs 8 MiB in memory: a deployment without a provider goes
without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_TOKEN_CHARS: Final = 8192


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token names. `tenant` is a short name or an id; `expires_at` includes the leeway."""

    issuer: str
    tenant: str
    subject: str
    email: str | None
    """One that the provider has verified: anybody may call themselves by any other."""
    name: str | None
    expires_at: float


def looks_like_token(secret: str) -> bool:
    """Three parts, of which the first is a JSON object: no secret of ours looks so."""
    return secret.startswith("eyJ") and secret.count(".") == 2
