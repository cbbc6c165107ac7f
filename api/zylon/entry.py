"""What every operation of this surface begins with: who asks, and of which organization."""

from __future__ import annotations

from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from api.auth import authenticate
from api.body import parse_json, read_body
from api.openapi import Header, Manner
from api.problems import fields_of
from api.state import state_of
from api.zylon.dialect import ZylonError
from shared.errors import NotAuthenticated, NotFound
from shared.turn.model import CredentialKind, Principal

M = TypeVar("M", bound=BaseModel)

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


async def read_value(request: Request) -> Any:
    """The JSON of the body; an empty one counts as `{}`.

    Raises:
        InvalidRequest: not JSON.
        HTTPException: 408, 413 or 415.
    """
    data = await read_body(request, state_of(request).settings.max_body_bytes)
    return parse_json(data) if data.strip(b" \t\r\n") else {}


async def read_model(request: Request, model: type[M]) -> M:
    """The body as `model`; members it does not know are ignored, whatever they are called.

    Raises:
        InvalidFields: JSON, but not what `model` wants; and what `read_value` raises.
    """
    value = await read_value(request)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise fields_of(error, "body") from None
