"""How the MechaMental thread messages surface tells errors.

422 bodies are FastAPI's, with five keys an item; all others
`{"error", "message", "details", "timestamp", "status_code"}`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.mechamental.schemas import MechaMentalInvalid, MechaMentalProblem
from api.openapi import Manner
from api.problems import ErrorReport
from api.wire import json_response
from shared import errors

MAX_INPUT_BYTES: Final = 2048
"""What is wrong is repeated up to this size: of a missing field, the input is the whole body."""

_CODE_OF: Final = {
    400: "BAD_REQUEST",
    401: "AUTHENTICATION_FAILED",
    403: "FORBIDDEN",
    404: "RESOURCE_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMIT_EXCEEDED",
    500: "INTERNAL_SERVER_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_MESSAGE_OF: Final = {
    401: "Authentication required",
    403: "You don't have permission to perform this action",
    500: "An unexpected error occurred",
}
"""Where the vendor has words of its own."""
MANNER: Final = Manner(
    problem=MechaMentalProblem,
    problems={422: MechaMentalInvalid},
    credentials=("bearer",),
    has_opaque_ids=True,
    takes_cookies=False,
)


def tell(request: Request, report: ErrorReport) -> Response:
    """The response for a report."""
    body = _problem(request, report) if report.items is None else _invalid(report)
    return json_response(body, report.status, report.all_headers())


def _problem(request: Request, report: ErrorReport) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "error": _CODE_OF.get(report.status, "REQUEST_REJECTED"),
        "message": _MESSAGE_OF.get(report.status, report.detail),
        "details": _details(request, report),
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "status_code": report.status,
    }


def _details(request: Request, report: ErrorReport) -> dict[str, Any]:
    asked = request.scope.get("path_params", {})
    match report.error:
        case errors.OutOfReach() as error:
            return {"required_permission": error.permission}
        case errors.ThreadNotFound():
            return _resource("thread", asked.get("thread_id"))
        case errors.NameTaken() as error:
            return _resource("thread", error.name)
        case errors.MessageNotFound() as error:
            asked_for = error.message_id
            return _resource("message", asked["message_id"] if asked_for is None else asked_for)
        case errors.NotFound():
            return _resource("organization", asked.get("org_id"))
        case errors.ConcurrencyConflict() as error:
            return {"execution_id": error.turn_id}
        case _ if report.retry_after_s is not None:
            return {"retry_after": report.retry_after_s}
        case _:
            return {}


def _resource(type_: str, id_: str | None) -> dict[str, Any]:
    return {"resource_type": type_, "resource_id": id_}


def _invalid(report: ErrorReport) -> dict[str, Any]:
    items = report.items or []
    none: dict[str, Any] = {"input": None, "ctx": {}}
    told = [*report.inputs, *[none] * len(items)]
    return {
        "detail": [
            {**item, "input": _bounded(found["input"]), "ctx": found["ctx"]}
            for item, found in zip(items, told, strict=False)
        ]
    }


def _bounded(value: Any) -> Any:
    return value if len(orjson.dumps(value)) <= MAX_INPUT_BYTES else None
