"""The primary surface's errors: which status each class of `shared.errors` has, and which body.

422 bodies are `{"detail": [{"loc", "msg", "type"}]}`, all others `{"detail", "title", "status",
"type"}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.state import state_of
from shared import errors
from shared.errors import TurnkeepError

log = structlog.get_logger(__name__)

STATUS_OF: Final[Mapping[type[TurnkeepError], int]] = {
    errors.InvalidRequest: 422,
    errors.InvalidCursor: 422,
    errors.UnknownModel: 422,
    errors.UnsupportedConflictPolicy: 422,
    errors.IdempotencyKeyReused: 422,
    errors.NotAuthenticated: 401,
    errors.TooManyFailures: 429,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.ThreadNotFound: 404,
    errors.TurnNotFound: 404,
    errors.MessageNotFound: 404,
    errors.ArtifactNotFound: 404,
    errors.AttachmentNotFound: 404,
    errors.FileTooLarge: 413,
    errors.AgentSpecNotFound: 404,
    errors.AutomationNotFound: 404,
    errors.AutomationRunNotFound: 404,
    errors.ConcurrencyConflict: 409,
    errors.TooManyTokens: 409,
    errors.StorageFull: 409,
    errors.TooManyAttachments: 409,
    errors.SlugTaken: 409,
    errors.AgentSpecInUse: 409,
    errors.TooManyVersions: 409,
    errors.ApprovalConflict: 409,
    errors.NotCrystallizable: 409,
    errors.AutomationConflict: 409,
    errors.CursorExpired: 410,
    errors.QueueFull: 429,
    errors.RateLimitExceeded: 429,
    errors.TooManyStreams: 429,
    errors.Saturated: 503,
    errors.TurnFailed: 500,  # never reaches HTTP: it is stored on the turn
    errors.PostgresUnavailable: 503,
    errors.PostgresBusy: 503,
    errors.RedisUnavailable: 503,
    errors.IdentityProviderUnavailable: 503,
    errors.ObjectStoreUnavailable: 503,
}


class InvalidFields(errors.RequestRejected):
    """Any number of wrong values. `items` are `{"loc", "msg", "type"}`."""

    code = "invalid_request"

    def __init__(self, items: list[dict[str, Any]]) -> None:
        super().__init__("The request is not valid")
        self.items = items


def problem_response(error: Exception) -> Response:
    """The response that tells a client of `error`."""
    match error:
        case InvalidFields():
            return _json({"detail": error.items}, 422)
        case errors.InvalidRequest():
            item = {"loc": list(error.loc), "msg": error.msg, "type": error.type}
            return _json({"detail": [item]}, 422)
        case errors.DependencyUnavailable():
            return _problem(
                503,
                "The service is temporarily unavailable",
                headers={"retry-after": str(error.retry_after_s)},
            )
        case errors.Overloaded() | errors.TooManyFailures():
            return _problem(
                STATUS_OF[type(error)],
                str(error),
                headers={"retry-after": str(error.retry_after_s)},
            )
        case errors.ConcurrencyConflict() | errors.ApprovalConflict() | errors.CursorExpired():
            status = STATUS_OF[type(error)]
            if error.turn_id is None:
                return _problem(status, str(error))
            return _problem(status, str(error), turnId=error.turn_id)
        case errors.NotAuthenticated():
            return _problem(401, "Not authenticated", headers={"www-authenticate": "Bearer"})
        case errors.RequestRejected():
            return _problem(STATUS_OF[type(error)], str(error))
        case HTTPException():
            return _problem(error.status_code, _detail_of(error), headers=error.headers)
        case _:
            return _problem(500, "Internal Server Error")


def fields_of(error: ValidationError, root: str) -> InvalidFields:
    """pydantic's errors as ours: three keys each, `loc` under `root`."""
    return InvalidFields(
        [
            {"loc": [root, *item["loc"]], "msg": item["msg"], "type": item["type"]}
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    )


async def _handle(_: Request, error: Exception) -> Response:
    return problem_response(error)


async def _handle_absence(request: Request, error: Exception) -> Response:
    code = getattr(error, "code", "unavailable")
    log.warning("http.dependency_unavailable", code=code, error=str(error))
    state_of(request).metrics.dependency_errors.labels(code=code).inc()
    return problem_response(error)


async def _handle_overload(request: Request, error: Exception) -> Response:
    # Counted and not logged: under overload these are most of all requests.
    state_of(request).metrics.refusals.labels(reason=getattr(error, "reason", "other")).inc()
    return problem_response(error)


async def _handle_departure(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _handle_defect(request: Request, error: Exception) -> Response:
    log.error("http.defect", method=request.method, exc_info=error)
    return problem_response(error)


EXCEPTION_HANDLERS: Final[Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]]] = {
    TurnkeepError: _handle,
    errors.DependencyUnavailable: _handle_absence,
    errors.Overloaded: _handle_overload,
    HTTPException: _handle,
    ClientDisconnect: _handle_departure,
    Exception: _handle_defect,
}


def problem_body(status: int, detail: str, **more: str) -> bytes:
    """The body of every error but 422."""
    body = {
        "detail": detail,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "type": "about:blank",
        **more,
    }
    return orjson.dumps(body)


def _problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: str
) -> Response:
    body = problem_body(status, detail, **more)
    return Response(body, status, dict(headers or {}), media_type="application/json")


def _detail_of(error: HTTPException) -> str:
    return error.detail or HTTPStatus(error.status_code).phrase


def _json(body: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, dict(headers or {}), media_type="application/json")
