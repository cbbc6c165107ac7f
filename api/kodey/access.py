"""Who asks: with a secret key, or with a publishable one, which is in every browser."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from api.auth import authenticate
from api.state import state_of
from shared.turn.model import CredentialKind, Principal

_KINDS: Final = frozenset({CredentialKind.KODEY_SECRET, CredentialKind.KODEY_PUBLISHABLE})


class SecretKeyRequired(HTTPException):
    """A publishable key may not do this."""

    def __init__(self) -> None:
        super().__init__(403, "This endpoint requires a secret API key")


async def admit(request: Request) -> Principal:
    """Whose key it is, in `x-api-key` or as a bearer; errors as of `authenticate`."""
    return await authenticate(request, admits=_KINDS)


async def admit_to_all_chats(request: Request) -> Principal:
    """The same for what strict deployments leave to secret keys: to list chats, and to delete them.

    Raises:
        SecretKeyRequired: so it is, and it is a publishable one.
    """
    principal = await admit(request)
    if state_of(request).settings.kodey_publishable_strict:
        require_secret(principal)
    return principal


async def admit_secret(request: Request) -> Principal:
    """The same for what no publishable key may do.

    Raises:
        SecretKeyRequired: it is one.
    """
    principal = await admit(request)
    require_secret(principal)
    return principal


def require_secret(principal: Principal) -> None:
    """Passes secret keys.

    Raises:
        SecretKeyRequired: it is a publishable one.
    """
    if principal.kind is not CredentialKind.KODEY_SECRET:
        raise SecretKeyRequired
