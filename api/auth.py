"""Credentials of a request → Principal. The first credential that is present decides."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from api.admission import CREDENTIAL
from api.state import state_of
from shared.errors import NotAuthenticated
from shared.turn.model import Principal

MAX_SECRET_CHARS: Final = 512


async def authenticate(request: Request, *, is_vital: bool = False) -> Principal:
    """Who asks: `Authorization: Bearer`, else `X-API-Key`. What is vital is never too much.

    A credential that is present but wrong is an error even when the other one would do: nobody
    should act under an identity they did not mean.

    Raises:
        NotAuthenticated: no credential, or a wrong one.
        TooManyFailures: a wrong one, and many before it.
        PostgresUnavailable: nobody can tell.
        RateLimitExceeded: the credential is good, but has asked too often.
    """
    state = state_of(request)
    bearers = [value for name, value in request.scope["headers"] if name == b"authorization"]
    known = state.api_keys.find_known(bearers[0]) if len(bearers) == 1 else None
    principal = known or await _authenticate_unknown(request, is_guess=bool(bearers))
    if state.rate_limit is not None:
        request.scope[CREDENTIAL] = principal.key_id
        if not is_vital:
            state.rate_limit.take(principal.key_id)
    return principal


async def _authenticate_unknown(request: Request, *, is_guess: bool) -> Principal:
    state = state_of(request)
    try:
        return await state.api_keys.authenticate(read_secret(request))
    except NotAuthenticated:
        if is_guess or "x-api-key" in request.headers:  # else nobody has guessed anything
            state.failed_credentials.note(request.client.host if request.client else None)
        raise


def read_secret(request: Request) -> str:
    """The secret of the deciding header.

    Raises:
        NotAuthenticated: absent, repeated, empty, too long or not printable ASCII.
    """
    bearers = request.headers.getlist("authorization")
    values = bearers or request.headers.getlist("x-api-key")
    if len(values) != 1:
        raise NotAuthenticated("Not authenticated")
    secret = values[0].strip()
    if bearers:
        scheme, _, secret = secret.partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated("Not authenticated")
        secret = secret.strip()
    if not 0 < len(secret) <= MAX_SECRET_CHARS or not (secret.isascii() and secret.isprintable()):
        raise NotAuthenticated("Not authenticated")
    return secret
