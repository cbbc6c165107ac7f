"""How the OpenAI Responses surface tells errors: `{"error": {"message", "type", "param", "code"}}`.

Specification: https://platform.openai.com/docs/guides/error-codes; a value that is wrong is 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.openapi import Manner
from api.problems import ErrorReport
from api.wire import json_response
from shared import errors

_NAMES: Final = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_entity_too_large"}
"""Where Python has had several."""
_NOT_FOUND: Final = {
    errors.TurnNotFound: ("Response not found", "response_not_found"),
    errors.ThreadNotFound: ("Conversation not found", "conversation_not_found"),
    errors.MessageNotFound: ("Item not found", "item_not_found"),
}
_CODES: Final[dict[type[Exception], str]] = {
    errors.NotAuthenticated: "invalid_api_key",
    errors.UnknownModel: "model_not_found",
    errors.RateLimitExceeded: "rate_limit_exceeded",
    errors.TooManyFailures: "rate_limit_exceeded",
}
_PARAM_OF: Final = {"modelId": "model"}
"""Fields that the core names otherwise."""


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every error of this surface."""

    error: ErrorBody


MANNER: Final = Manner(
    problem=ErrorEnvelope,
    problems={},
    invalid=HTTPStatus.BAD_REQUEST,
    credentials=("bearer",),
    has_opaque_ids=True,
    takes_cookies=False,
)


def tell(_: Request, report: ErrorReport) -> Response:
    """The response for a report."""
    status = HTTPStatus.BAD_REQUEST if report.status == 422 else HTTPStatus(report.status)
    message, param, code = report.detail, None, _code_of(report, status)
    if report.items:
        first = report.items[0]
        param = param_of(first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if param is not None:
            message = f"Invalid value for '{param}': {message}"
    elif type(report.error) in _NOT_FOUND:
        message, code = _NOT_FOUND[type(report.error)]  # type: ignore[index]  # it is one of them
    error = {"message": message, "type": _type_of(status), "param": param, "code": code}
    return json_response({"error": error}, status, report.all_headers())


def param_of(loc: Sequence[str | int]) -> str | None:
    """A place as OpenAI writes it: `input[0].content`."""
    text = ""
    for step in loc[1:]:
        text += f"[{step}]" if isinstance(step, int) else f".{_PARAM_OF.get(step, step)}"
    return text.removeprefix(".") if text and not text.startswith("[") else None


def _code_of(report: ErrorReport, status: HTTPStatus) -> str:
    error = report.error
    known = _CODES.get(type(error))
    if known is not None:
        return known
    if isinstance(error, errors.InvalidRequest) and error.code != errors.InvalidRequest.code:
        return error.code
    if report.items:
        kind = str(report.items[0]["type"])
        if kind == "missing":
            return "missing_required_parameter"
        if kind.startswith(("unsupported_", "previous_response_")):
            return kind
        return "invalid_type" if kind.endswith("_type") else "invalid_value"
    if isinstance(error, errors.TurnkeepError):
        return error.code
    return _NAMES.get(status, status.name.lower())


def _type_of(status: HTTPStatus) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "permission_error" if status == HTTPStatus.FORBIDDEN else "invalid_request_error"
