"""Access tokens of the caller: make one, list them, revoke one."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.account.schemas import (
    AccessTokenList,
    AccessTokenListQuery,
    CreateAccessToken,
    CreatedAccessToken,
    token_to_dict,
)
from api.auth import authenticate
from api.body import read_model
from api.openapi import Operation
from api.page_cursors import read_cursor, tell_cursor
from api.state import state_of
from api.validation import path_uuid, read_query
from api.wire import json_response
from shared.service.users import MAX_TOKEN_DAYS

TOKENS: Final = "/api/v1/access-tokens"
TOKEN: Final = f"{TOKENS}/{{token_id}}"


async def create_access_token(request: Request) -> Response:
    """A personal token, for programs that act as the caller. Its text is shown this once.

    One that was made with an API key ends with it. Personal tokens and those of an identity
    provider make none: they would live on through it.
    """
    principal = await authenticate(request)
    users = state_of(request).users
    parent_id = await users.require_maker(principal)
    body = await read_model(request, CreateAccessToken)
    days = body.expires_in_days or MAX_TOKEN_DAYS
    made = await users.create_token(principal, body.name, days, parent_id)
    answer = {"plaintext": made.secret, "token": token_to_dict(made.row)}
    headers = {"cache-control": "no-store"}
    return json_response(answer, HTTPStatus.CREATED, headers)


async def list_access_tokens(request: Request) -> Response:
    """The caller's API keys and personal tokens, newest first, also those that are over."""
    principal = await authenticate(request)
    query = read_query(request, AccessTokenListQuery)
    rows, cursor = await state_of(request).users.list_tokens(
        principal, limit=query.limit, cursor=read_cursor(request, query.cursor)
    )
    return json_response(
        {"items": [token_to_dict(row) for row in rows], "nextCursor": tell_cursor(request, cursor)}
    )


async def revoke_access_token(request: Request) -> Response:
    """Ends a key or token for good: it is refused, and loses its open streams, within 5 s."""
    principal = await authenticate(request)
    await state_of(request).users.revoke_token(principal, path_uuid(request, "token_id"))
    return Response(status_code=HTTPStatus.NO_CONTENT)


OPERATIONS: Final = (
    Operation(
        "POST", TOKENS, create_access_token, "account", "Make an access token",
        body=CreateAccessToken, responses={HTTPStatus.CREATED: CreatedAccessToken}, errors=(409,),
    ),
    Operation(
        "GET", TOKENS, list_access_tokens, "account", "List access tokens",
        query=AccessTokenListQuery, responses={HTTPStatus.OK: AccessTokenList},
    ),
    Operation(
        "DELETE", TOKEN, revoke_access_token, "account", "Revoke an access token",
        responses={HTTPStatus.NO_CONTENT: None},
    ),
)  # fmt: skip
