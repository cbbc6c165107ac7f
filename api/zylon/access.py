"""What every operation of this surface begins with: who asks, and of which organization."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request

from api.auth import authenticate_bearer
from api.openapi import Header
from api.state import state_of
from shared.errors import NotFound
from shared.turn.model import CredentialKind, Principal

BASE: Final = "/api/v1/app"
ORG: Final = Header("X-Org", "Id or short name of the token's organization")
_KINDS: Final = frozenset({CredentialKind.ZYLON})


async def admit(request: Request, *, is_vital: bool = False) -> Principal:
    """Who asks, and for the organization they name, if they name one.

    Raises:
        NotAuthenticated: no token of this surface; and what else `authenticate_bearer` raises.
        NotFound: `X-Org` names another organization than the token's.
    """
    principal = await authenticate_bearer(request, is_vital=is_vital, admits=_KINDS)
    wanted = set(request.headers.getlist("x-org"))
    if len(wanted) > 1:
        raise NotFound("Organization not found")
    for name in wanted:
        if not await state_of(request).users.is_organization(principal, _plain(name)):
            raise NotFound("Organization not found")
    return principal


def _plain(name: str) -> str:
    """An organization's id without this surface's word for it; a short name as it is."""
    try:
        return str(UUID(name.removeprefix("org_")))
    except ValueError:
        return name
