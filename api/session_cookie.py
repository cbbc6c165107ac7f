"""The cookie of who has signed in: read strictly, kept from scripts and from other sites."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from api.origin import is_secure

COOKIE: Final = "vai_token"


def read_cookies(request: Request) -> list[str]:
    """All values sent under its name; two of them say nothing about who asks (RFC 6265 §5.4)."""
    found = []
    for header in request.headers.getlist("cookie"):
        for pair in header.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and name == COOKIE:
                found.append(value)
    return found


def write_cookie(request: Request, value: str, max_age_s: int) -> str:
    """The header that sets it; with an age of 0 the browser forgets it."""
    cookie = f"{COOKIE}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax"
    return f"{cookie}; Secure" if is_secure(request) else cookie
