"""How the Zylon workspace surface tells errors: `{"type": "error", "error": {"type", "message"}}`.

Wrong values are a 400, whatever is wrong with them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.openapi import Manner
from api.problems import ErrorReport
from api.wire import json_response
from shared.errors import TurnNotFound

TYPE_OF: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Any other status is the caller's fault below 500, and ours from there."""


class ZylonErrorDetail(BaseModel):
    type: str
    message: str


class ZylonError(BaseModel):
    """What every error says."""

    type: Literal["error"]
    error: ZylonErrorDetail


MANNER: Final = Manner(
    problem=ZylonError,
    problems={},
    invalid=400,
    credentials=("bearer",),
    has_opaque_ids=True,
    takes_cookies=False,
)


def tell(_: Request, report: ErrorReport) -> Response:
    """The response for a report."""
    status = HTTPStatus.BAD_REQUEST if is_invalid(report) else report.status
    return json_response(error_body(status, message_of(report)), int(status), report.all_headers())


def is_invalid(report: ErrorReport) -> bool:
    """Whether the request was wrong in its values."""
    return report.items is not None or report.status == HTTPStatus.UNPROCESSABLE_ENTITY


def error_body(status: int, message: str) -> dict[str, Any]:
    """The body of an error of this status."""
    fallback = "api_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else TYPE_OF[400]
    return {"type": "error", "error": {"type": TYPE_OF.get(status, fallback), "message": message}}


def message_of(report: ErrorReport) -> str:
    """One text for all that is wrong."""
    if isinstance(report.error, TurnNotFound):
        return "Interaction not found"
    if report.items is None:
        return report.detail
    return "; ".join(map(describe, report.items))


def describe(item: dict[str, Any]) -> str:
    """One wrong value: where it is, unless it is the whole body, and what is wrong."""
    loc = item["loc"][1:]
    is_place = bool(loc) and not isinstance(loc[0], int)
    place = ".".join(str(part) for part in loc) if is_place else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
