"""Signing in and out with a password, and who one is."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.account.schemas import LogIn, Me, user_to_dict
from api.auth import MAX_SECRET_CHARS, Carrier, authenticate, carrier_of
from api.body import read_model
from api.openapi import Operation
from api.origin import refuse_other_sites
from api.session_cookie import read_cookies, write_cookie
from api.state import state_of
from api.wire import json_response
from shared.errors import Forbidden, NotAuthenticated

AUTH: Final = "/api/v1/auth"


async def log_in(request: Request) -> Response:
    """Begins a session and sets its cookie. Whatever is wrong is answered alike.

    Who has accounts in several organizations must name one.
    """
    refuse_other_sites(request)
    host = request.client.host if request.client else None
    state = state_of(request)
    state.failed_credentials.require_few(host)
    body = await read_model(request, LogIn)
    cookies = read_cookies(request)
    replaced = cookies[0] if cookies and len(cookies[0]) <= MAX_SECRET_CHARS else None
    try:
        session = await state.sign_in.sign_in(
            body.email, body.password, body.organization, replaced
        )
    except NotAuthenticated:
        state.failed_credentials.note(host)
        raise
    cookie = write_cookie(request, session.secret, state.settings.session_ttl_s)
    return Response(
        status_code=HTTPStatus.NO_CONTENT,
        headers={"set-cookie": cookie, "cache-control": "no-store"},
    )


async def log_out(request: Request) -> Response:
    """Ends the session of the cookie, and its open streams within 5 s."""
    principal = await authenticate(request, is_vital=True)
    if carrier_of(request) is not Carrier.COOKIE:
        raise Forbidden("Only a session can be left; revoke an access token instead")
    state = state_of(request)
    await state.sign_in.sign_out(principal.key_id)
    state.credentials.forget({principal.key_id})
    return Response(
        status_code=HTTPStatus.NO_CONTENT, headers={"set-cookie": write_cookie(request, "", 0)}
    )


async def get_me(request: Request) -> Response:
    """Who asks, for which organization, and with what."""
    principal = await authenticate(request)
    row = await state_of(request).users.get(principal)
    body = {
        "session": {
            "authMethod": carrier_of(request),
            "tokenType": row["token_type"] or "jwt",
            "sessionId": str(principal.key_id),
            "organization": {
                "id": str(row["organization_id"]),
                "name": row["organization_name"],
                "slug": row["organization_slug"],
            },
        },
        "user": user_to_dict(row),
    }
    return json_response(body)


OPERATIONS: Final = (
    Operation(
        "POST", f"{AUTH}/login", log_in, "account", "Sign in",
        body=LogIn, responses={HTTPStatus.NO_CONTENT: None}, is_public=True,
    ),
    Operation(
        "POST", f"{AUTH}/logout", log_out, "account", "Sign out",
        responses={HTTPStatus.NO_CONTENT: None},
    ),
    Operation("GET", f"{AUTH}/me", get_me, "account", "Who asks", responses={HTTPStatus.OK: Me}),
)  # fmt: skip
