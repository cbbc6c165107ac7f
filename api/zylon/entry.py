"""What every operation of this surface begins with: who asks, and of which organization."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request

from api.auth import authenticate
from api.openapi import Header, Manner
from api.state import state_of
from api.zylon.dialect import ZylonError
from shared.errors import NotAuthenticated, NotFound
from shared.turn.model import CredentialKind, Principal

BASE: Final = "/api/v1/app"
_KINDS: Final = frozenset({CredentialKind.ZYLON})
ORG: Final = Header("X-Org", "Id or short name of the token's organization")
MANNER: Final = Manner(
    problem=ZylonError,
    problems={},
    invalid=400,
    credentials=("bearer",),
    has_opaque_ids=True,
    takes_cookies=False,
)


async def enter(request: Request, *, is_vital: bool = False) -> Principal:
    """Who asks, by `Authorization: Bearer` alone.

    Raises:
        NotAuthenticated: no token of this surface; and what else `authenticate` raises.
        NotFound: `X-Org` names another organization than the token's.
    """
    if "authorization" not in request.headers:
        raise NotAuthenticated("Not authenticated")
    principal = await authenticate(request, is_vital=is_vital, admits=_KINDS)
    wanted = request.headers.getlist("x-org")
    if wanted and not await _is_org(request, principal, wanted):
        raise NotFound("Organization not found")
    return principal


async def _is_org(request: Request, principal: Principal, wanted: list[str]) -> bool:
    if len(set(wanted)) > 1:
        return False
    try:
        return UUID(wanted[0].removeprefix("org_")) == principal.tenant_id
    except ValueError:
        me = await state_of(request).users.get(principal)
        return me["organization_slug"] is not None and me["organization_slug"] == wanted[0]
