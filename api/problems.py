"""Errors over HTTP: which status each class of `shared.errors` has, and what the body says.

On the primary surface 422 bodies are `{"detail": [{"loc", "msg", "type"}]}`, all others
`{"detail", "title", "status", "type"}`. Other surfaces say the same report in their own dialect,
each under its own paths.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.state import state_of
from api.wire import json_response, rendered_response
from shared import errors
from shared.errors import TurnkeepError

log = structlog.get_logger(__name__)

MAX_TOLD: Final = 1000
"""Wrong values of one request."""
STATUS_OF: Final[Mapping[type[TurnkeepError], int]] = {
    errors.InvalidRequest: 422,
    errors.InvalidCursor: 422,
    errors.UnknownModel: 422,
    errors.UnsupportedConflictPolicy: 422,
    errors.IdempotencyKeyReused: 422,
    errors.NotAuthenticated: 401,
    errors.TooManyFailures: 429,
    errors.Forbidden: 403,
    errors.OutOfReach: 403,
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
    errors.ProjectNotFound: 404,
    errors.ConcurrencyConflict: 409,
    errors.ThreadMovedOn: 409,
    errors.TooManyTokens: 409,
    errors.StorageFull: 409,
    errors.TooManyAttachments: 409,
    errors.SlugTaken: 409,
    errors.NameTaken: 409,
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
    """Any number of wrong values. `items` are `{"loc", "msg", "type"}`.

    `inputs` are `{"input", "ctx"}` of the same values, for surfaces that repeat them; may be empty.
    """

    code = "invalid_request"

    def __init__(self, items: list[dict[str, Any]], inputs: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__("The request is not valid")
        self.items = items
        self.inputs = inputs


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What a client is told of an error, whatever the dialect; nothing internal is in it."""

    error: Exception
    status: int
    detail: str
    items: list[dict[str, Any]] | None = None
    """Wrong values as `InvalidFields` has them; None: the request was not wrong in its values."""
    inputs: Sequence[dict[str, Any]] = ()
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    """Members that the primary surface adds to the body."""

    def all_headers(self) -> dict[str, str]:
        """Those that every dialect sends."""
        told = dict(self.headers)
        if self.retry_after_s is not None:
            told["retry-after"] = str(self.retry_after_s)
        return told


Dialect = Callable[[Request, ErrorReport], Response]
"""Says a report as one surface's clients expect it."""


def report_of(error: Exception) -> ErrorReport:
    """What is told of `error`."""
    status = STATUS_OF.get(type(error), 500) if isinstance(error, TurnkeepError) else 500
    match error:
        case InvalidFields():
            return ErrorReport(error, 422, str(error), items=error.items, inputs=error.inputs)
        case errors.InvalidRequest():
            item = {"loc": list(error.loc), "msg": error.msg, "type": error.type}
            return ErrorReport(error, 422, error.msg, items=[item])
        case errors.DependencyUnavailable():
            detail = "The service is temporarily unavailable"
            return ErrorReport(error, 503, detail, retry_after_s=error.retry_after_s)
        case errors.Overloaded() | errors.TooManyFailures():
            return ErrorReport(error, status, str(error), retry_after_s=error.retry_after_s)
        case errors.ConcurrencyConflict() | errors.ApprovalConflict() | errors.CursorExpired():
            more = {} if error.turn_id is None else {"turnId": error.turn_id}
            return ErrorReport(error, status, str(error), more=more)
        case errors.NotAuthenticated():
            headers = {"www-authenticate": "Bearer"}
            return ErrorReport(error, 401, "Not authenticated", headers=headers)
        case errors.RequestRejected():
            return ErrorReport(error, status, str(error))
        case HTTPException():
            detail = error.detail or HTTPStatus(error.status_code).phrase
            return ErrorReport(error, error.status_code, detail, headers=error.headers or {})
        case _:
            return ErrorReport(error, 500, "Internal Server Error")


def problem_response(error: Exception) -> Response:
    """The response that tells a client of the primary surface of `error`."""
    report = report_of(error)
    if report.items is not None:
        return json_response({"detail": report.items}, report.status)
    body = problem_body(report.status, report.detail, **report.more)
    return rendered_response(body, report.status, report.all_headers())


def response_to(request: Request, error: Exception) -> Response:
    """The response in the dialect of the surface that was asked."""
    dialect = dialect_of(request)
    return problem_response(error) if dialect is None else dialect(request, report_of(error))


def dialect_of(request: Request) -> Dialect | None:
    """Of the surface under whose prefix the path is; None: the primary one."""
    found = _find_surface(request)
    return None if found is None else found[1]


def prefix_of(request: Request) -> str:
    """The surface's prefix that the path has; empty: the primary one's."""
    found = _find_surface(request)
    return "" if found is None else found[0]


def _find_surface(request: Request) -> tuple[str, Dialect] | None:
    path: str = request.scope["path"]
    state = getattr(request.scope.get("app"), "state", None)
    dialects: tuple[tuple[str, Dialect], ...] = getattr(state, "dialects", ())
    for prefix, dialect in dialects:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
            return prefix, dialect
    return None


def fields_of(error: ValidationError, root: str) -> InvalidFields:
    """pydantic's errors as ours: three keys each, `loc` under `root`.

    Beyond `MAX_TOLD` only their number: a body of 1 MiB can hold half a million, which are too many
    to make an object of each.
    """
    count = error.error_count()
    if count > MAX_TOLD:
        msg = f"{count} values are wrong, which are too many to tell each"
        return InvalidFields([{"loc": [root], "msg": msg, "type": "too_many_errors"}])
    found = error.errors(include_url=False)
    return InvalidFields(
        [_item(root, details) for details in found],
        [
            {
                "input": details["input"],
                "ctx": {name: _plain(value) for name, value in details.get("ctx", {}).items()},
            }
            for details in found
        ],
    )


def _item(root: str, details: ErrorDetails) -> dict[str, Any]:
    msg, type_ = details["msg"], details["type"]
    if type_ == "model_type":  # pydantic names our class in it
        msg, type_ = "Input should be a valid dictionary", "dict_type"
    return {"loc": [root, *details["loc"]], "msg": msg, "type": type_}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else str(value)


async def _handle(request: Request, error: Exception) -> Response:
    return response_to(request, error)


async def _handle_absence(request: Request, error: Exception) -> Response:
    code = getattr(error, "code", "unavailable")
    log.warning("http.dependency_unavailable", code=code, error=str(error))
    state_of(request).metrics.dependency_errors.labels(code=code).inc()
    return response_to(request, error)


async def _handle_overload(request: Request, error: Exception) -> Response:
    # Counted and not logged: under overload these are most of all requests.
    state_of(request).metrics.refusals.labels(reason=getattr(error, "reason", "other")).inc()
    return response_to(request, error)


async def _handle_departure(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _handle_defect(request: Request, error: Exception) -> Response:
    log.error("http.defect", method=request.method, exc_info=error)
    return response_to(request, error)


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
