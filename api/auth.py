"""Credentials of a request → Principal. The first credential that is present decides."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from starlette.requests import Request

from api.admission import COUNTED, CREDENTIAL
from api.origin import require_own_site
from api.session_cookie import read_cookies
from api.state import state_of
from shared.errors import NotAuthenticated
from shared.service.identity import MAX_TOKEN_CHARS, looks_like_token
from shared.turn.model import CHAT_KINDS, CredentialKind, Principal

MAX_SECRET_CHARS: Final = 512
_SAFE: Final = frozenset({"GET", "HEAD"})


class Carrier(StrEnum):
    """What brought the credential."""

    BEARER = "bearer"
    API_KEY = "api_key"
    COOKIE = "cookie"


_HEADER_OF: Final = {Carrier.BEARER: "authorization", Carrier.API_KEY: "x-api-key"}


async def authenticate(
    request: Request,
    *,
    is_vital: bool = False,
    admits: frozenset[CredentialKind] = CHAT_KINDS,
) -> Principal:
    """Who asks: `Authorization: Bearer`, else `X-API-Key`, else the cookie of who has signed in.

    A credential that is present but wrong is an error even when another one would do: nobody
    should act under an identity they did not mean. `is_vital` requests pass the rate limit.
    `admits` are the kinds that the surface takes; any other kind is answered as unknown.

    Raises:
        NotAuthenticated: no credential, or a wrong one.
        TooManyFailures: a wrong one, and many before it.
        PostgresUnavailable: nobody can tell.
        IdentityProviderUnavailable: the same.
        RateLimitExceeded: the credential is good, but has asked too often.
        Forbidden: signed in, but the request may come from another site.
    """
    state = state_of(request)
    bearers = [value for name, value in request.scope["headers"] if name == b"authorization"]
    known = state.credentials.find_known(bearers[0]) if len(bearers) == 1 else None
    carrier = Carrier.BEARER if bearers else carrier_of(request)
    if carrier is Carrier.COOKIE and CredentialKind.SESSION not in admits:
        carrier = None  # who has signed in elsewhere on this host has guessed nothing here
    if known is None or known.kind not in admits:
        known = await _authenticate_unknown(request, carrier, admits)
    principal = known
    limit = state.rate_limits_of.get(principal.kind)
    if limit is not None:
        request.scope[COUNTED] = limit, principal.counted_as
        limit.take(principal.counted_as)
    else:
        request.scope[CREDENTIAL] = principal.counted_as
        if state.rate_limit is not None and not is_vital:
            state.rate_limit.take(principal.counted_as)
    if carrier is Carrier.COOKIE and request.method not in _SAFE:
        require_own_site(request)
    return principal


async def authenticate_bearer(
    request: Request,
    *,
    is_vital: bool = False,
    admits: frozenset[CredentialKind] = CHAT_KINDS,
) -> Principal:
    """As `authenticate`, by `Authorization: Bearer` alone: no other header counts, and no cookie.

    Raises:
        NotAuthenticated: there is none, or a wrong one; and what else `authenticate` raises.
    """
    if "authorization" not in request.headers:
        raise NotAuthenticated("Not authenticated")
    return await authenticate(request, is_vital=is_vital, admits=admits)


def carrier_of(request: Request) -> Carrier | None:
    """What brings the credential that decides; None: there is none."""
    if "authorization" in request.headers:
        return Carrier.BEARER
    if "x-api-key" in request.headers:
        return Carrier.API_KEY
    return Carrier.COOKIE if read_cookies(request) else None


async def _authenticate_unknown(
    request: Request, carrier: Carrier | None, admits: frozenset[CredentialKind]
) -> Principal:
    try:
        return await _find_principal(request, carrier, admits)
    except NotAuthenticated:
        if carrier is not None:  # else nobody has guessed anything
            host = request.client.host if request.client else None
            state_of(request).failed_credentials.note(host)
        raise


async def _find_principal(
    request: Request, carrier: Carrier | None, admits: frozenset[CredentialKind]
) -> Principal:
    secret = read_secret(request, carrier)
    keys = state_of(request).credentials
    is_session = carrier is Carrier.COOKIE
    principal = await (
        keys.authenticate_session(secret) if is_session else keys.authenticate(secret)
    )
    if principal.kind not in admits:
        raise NotAuthenticated("A credential of another surface")
    return principal


def read_secret(request: Request, carrier: Carrier | None) -> str:
    """The secret of the credential that decides.

    Raises:
        NotAuthenticated: absent, repeated, empty, too long or not printable ASCII.
    """
    if carrier is None:
        raise NotAuthenticated("Not authenticated")
    if carrier is Carrier.COOKIE:
        values = read_cookies(request)
    else:
        values = request.headers.getlist(_HEADER_OF[carrier])
    if len(values) != 1:
        raise NotAuthenticated("Not authenticated")
    secret = values[0].strip()
    if carrier is Carrier.BEARER:
        scheme, _, secret = secret.partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated("Not authenticated")
        secret = secret.strip()
    most = MAX_TOKEN_CHARS if looks_like_token(secret) else MAX_SECRET_CHARS
    if not 0 < len(secret) <= most or not (secret.isascii() and secret.isprintable()):
        raise NotAuthenticated("Not authenticated")
    return secret
