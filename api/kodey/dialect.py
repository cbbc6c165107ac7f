"""How the surface tells errors: `{"error", "message"}`, and 401 without `error`.

Specification: https://developer.kodey.ai/docs/getting-started/kodey-api/errors.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from api.kodey.access import SecretKeyRequired
from api.kodey.headers import surface_headers
from api.kodey.schemas import KodeyError, KodeyForbidden, KodeyTooManyRequests, KodeyUnauthorized
from api.openapi import Manner
from api.problems import ErrorReport
from api.wire import json_response
from shared.errors import RateLimitExceeded, TooManyFailures

NEEDS_SECRET_KEY: Final = {
    "error": "Forbidden",
    "message": "This endpoint requires a secret API key (sk_live_*). You are using a publishable"
    " API key (pk_live_*) which only has access to chat and message endpoints.",
    "allowedEndpoints": [
        "POST /chat - Create a chat",
        "GET /chat/:chatId - Get chat details",
        "POST /chat/:chatId/message - Send a message",
        "GET /chat/:chatId/message - List messages",
    ],
    "upgradeInstructions": "Publishable API keys are restricted to chat endpoints. Please use your"
    " secret API key (sk_live_*) for full API access.",
}
"""As documented. Where publishable keys are not strict they may list and delete, too."""
MANNER: Final = Manner(
    problem=KodeyError,
    problems={401: KodeyUnauthorized, 403: KodeyForbidden, 429: KodeyTooManyRequests},
    invalid=400,
    credentials=("apiKey", "bearer"),
    has_opaque_ids=True,
    takes_cookies=False,
)
_IN_MARKDOWN: Final = ("body", "markdown")
_PHRASES: Final = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Payload Too Large"}
"""Where RFC 9110 has had several, this surface's."""


def tell(request: Request, report: ErrorReport) -> Response:
    """The response for a report."""
    status = HTTPStatus.BAD_REQUEST if report.status == 422 else HTTPStatus(report.status)
    headers = surface_headers(request) | report.all_headers()
    return json_response(_body(status, report, headers.get("retry-after")), status, headers)


def _body(status: HTTPStatus, report: ErrorReport, retry_after: str | None) -> dict[str, Any]:
    if isinstance(report.error, SecretKeyRequired):
        return NEEDS_SECRET_KEY
    message = report.detail
    if status is HTTPStatus.UNAUTHORIZED:
        return {"message": "Unauthorized: Invalid API key."}
    if status is HTTPStatus.NOT_FOUND:
        message = "Resource not found"
    if report.items is not None:
        message = "; ".join(map(_tell_item, report.items))
    if status is not HTTPStatus.TOO_MANY_REQUESTS:
        return {"error": _PHRASES.get(status, status.phrase), "message": message}
    retry_after_s = int(retry_after or 1)
    if isinstance(report.error, RateLimitExceeded | TooManyFailures):
        message = "Rate limit exceeded"
    message = f"{message.rstrip('.')}. Please retry after {retry_after_s} seconds."
    return {"error": status.phrase, "message": message, "retryAfter": retry_after_s}


def _tell_item(item: dict[str, Any]) -> str:
    """Such as `agentId: Field required`; what is wrong with a whole body names no place."""
    loc = tuple(item["loc"])
    # An agent is checked as the markdown that is made of it.
    loc = loc[2:] if loc[:2] == _IN_MARKDOWN else loc[1:]
    place = ".".join(map(str, loc))
    is_place = bool(loc) and not isinstance(loc[0], int)
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if is_place else message
