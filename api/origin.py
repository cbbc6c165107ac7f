"""From where a browser sends a request: another site may not act for who is signed in here.

A cookie travels with requests of other sites too, so one that changes something must show that it
comes from ours: by `Sec-Fetch-Site`, which no page can set, else by `Origin` or `Referer`. Headers
that say who asks (`Authorization`, `X-API-Key`) are set by no other site, and need no such proof.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from api.state import state_of
from shared.errors import Forbidden

_OWN_SITE: Final = frozenset({"same-origin", "none"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def require_own_site(request: Request) -> None:
    """Passes what shows that it comes from our own pages.

    Raises:
        Forbidden: it shows nothing, or something else.
    """
    if _comes_from_own_site(request) is not True:
        raise Forbidden("Forbidden")


def refuse_other_sites(request: Request) -> None:
    """Passes also what shows nothing, as no browser would send it.

    Raises:
        Forbidden: it comes from another site.
    """
    if _comes_from_own_site(request) is False:
        raise Forbidden("Forbidden")


def is_secure(request: Request) -> bool:
    """Whether browsers reach us by TLS: always, but on this very machine."""
    settings = state_of(request).settings
    if settings.public_url is not None:
        return settings.public_url.startswith("https://")
    host, _, port = request.headers.get("host", "").lower().rpartition(":")
    return (host if port.isdigit() else f"{host}:{port}".lstrip(":")) not in _LOOPBACK


def _comes_from_own_site(request: Request) -> bool | None:
    """None: no header tells. One that is repeated tells of another site."""
    headers = request.headers
    site = headers.getlist("sec-fetch-site")
    origin = headers.getlist("origin") or headers.getlist("referer")
    if not site and not origin:
        return None
    if site and (len(site) > 1 or site[0] not in _OWN_SITE):
        return False
    if origin and len(origin) > 1:
        return False
    return bool(site) or _is_ours(request, origin[0])


def _is_ours(request: Request, url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    settings = state_of(request).settings
    if settings.public_url is not None:
        ours = urlsplit(settings.public_url)
        return _place(parts.scheme, parts.netloc) == _place(ours.scheme, ours.netloc)
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        return False
    return _place(parts.scheme, parts.netloc) == _place(parts.scheme, hosts[0])


def _place(scheme: str, netloc: str) -> tuple[str, str]:
    return scheme.lower(), netloc.lower().removesuffix(_DEFAULT_PORTS.get(scheme.lower(), ":"))
