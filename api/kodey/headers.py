"""Headers of every answer of the surface: what is left of a rate, and who may read it in a browser.

Specification: https://developer.kodey.ai/docs/getting-started/kodey-api/errors, "Rate Limits".
"""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.admission import COUNTED, CREDENTIAL, Rate
from api.state import state_of
from api.wire import json_response

_EXPOSED: Final = (
    "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after, idempotency-replayed"
)
_OPEN: Final = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": _EXPOSED,
}
_PREFLIGHT: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "x-api-key, content-type",
    "access-control-max-age": "600",
}


def surface_headers(request: Request) -> dict[str, str]:
    """Headers of an answer to `request`.

    Requests without a known key are told how many wrong keys their address may still send.
    """
    headers = dict(_OPEN) if _is_open(request) else {}
    rate = _rate(request)
    if rate is not None:
        headers["x-ratelimit-limit"] = str(rate.limit)
        headers["x-ratelimit-remaining"] = str(rate.remaining)
        headers["x-ratelimit-reset"] = str(int(time.time()) + rate.reset)
    return headers


def answer(
    request: Request, value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer with a JSON body; None: without a body."""
    told = surface_headers(request) | (headers or {})
    if value is None:
        return Response(status_code=status, headers=told)
    return json_response(value, status, told)


async def answer_preflight(_: Request) -> Response:
    """What a browser asks before a page of any origin may use the chats, without a key."""
    return Response(status_code=204, headers=_PREFLIGHT)


def _is_open(request: Request) -> bool:
    path: str = request.scope["path"]
    return path == "/chat" or path.startswith("/chat/")


def _rate(request: Request) -> Rate | None:
    counted = request.scope.get(COUNTED)
    if counted is not None:
        limit, who = counted
        rate: Rate = limit.look(who)
        return rate
    if CREDENTIAL in request.scope:
        return None  # counted as all credentials are: the application tells it, if there is a limit
    host = request.client.host if request.client else None
    return state_of(request).failed_credentials.look(host)
