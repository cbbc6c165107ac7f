"""How each surface says an error, to the last key: what its clients parse, they can rely on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.security.wire import Answer, require_problem

Require = Callable[[Answer, int, object], Any]
"""Fails unless the answer is the error of this status in the dialect; returns its body."""

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_MECHAMENTAL: Final = {
    401: "AUTHENTICATION_FAILED",
    403: "FORBIDDEN",
    404: "RESOURCE_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    408: "REQUEST_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMIT_EXCEEDED",
}
_KODEY: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    408: "Request Timeout",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    504: "Gateway Timeout",
}
_ZYLON: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_RESPONSES: Final = {
    401: {"invalid_api_key"},
    404: {"response_not_found", "conversation_not_found", "item_not_found", "not_found"},
    405: {"method_not_allowed"},
    409: {"concurrency_conflict", "approval_conflict"},
    408: {"request_timeout"},
    413: {"request_entity_too_large"},
    415: {"unsupported_media_type"},
    429: {"rate_limit_exceeded"},
}
"""Of a 400 there are too many codes to tell."""


def primary(answer: Answer, status: int, name: object) -> Any:
    """`{"detail", "title", "status", "type"}`; 422 `{"detail": [{"loc", "msg", "type"}]}`."""
    body = _json(answer, status, name)
    require_problem(answer, name)
    if status != 422:
        assert set(body) - {"turnId"} == {"detail", "title", "status", "type"}, (name, body)
        assert status == 409 or "turnId" not in body, (name, body)
        assert body["type"] == "about:blank", (name, body)
    return body


def mechamental(answer: Answer, status: int, name: object) -> Any:
    """`{"error", "message", "details", "timestamp", "status_code"}`, or as FastAPI: five keys."""
    body = _json(answer, status, name)
    told = (name, body)
    if status == 422:
        assert list(body) == ["detail"], told
        assert body["detail"], told
        for item in body["detail"]:
            assert list(item) == ["loc", "msg", "type", "input", "ctx"], told
            assert item["loc"][0] in {"path", "query", "body"}, told
            assert _are(str, item["msg"], item["type"]), told
            assert isinstance(item["ctx"], dict), told
        return body
    assert list(body) == ["error", "message", "details", "timestamp", "status_code"], told
    assert (body["error"], body["status_code"]) == (_MECHAMENTAL[status], status), told
    assert _INSTANT.fullmatch(body["timestamp"]), told
    assert _are(str, body["message"]), told
    details = {
        401: set(),
        403: {"required_permission"},
        404: {"resource_type", "resource_id"},
        409: {"resource_type", "resource_id"},
        429: {"retry_after"},
    }
    if body["details"] or status in {401, 403, 429}:
        assert set(body["details"]) == details.get(status, set()), told
    if status == 401:
        assert body["message"] == "Authentication required", told
    if status == 403:
        assert body["message"] == "You don't have permission to perform this action", told
    return body


def kodey(answer: Answer, status: int, name: object) -> Any:
    """`{"error", "message"}`; 401 has no `error`, and 403 says what to do."""
    body = _json(answer, status, name)
    if status == 401:
        assert body == {"message": "Unauthorized: Invalid API key."}, (name, body)
        return body
    more = {403: {"allowedEndpoints", "upgradeInstructions"}, 429: {"retryAfter"}}
    assert set(body) == {"error", "message"} | more.get(status, set()), (name, body)
    assert body["error"] == _KODEY[status], (name, body)
    assert _are(str, body["message"]), (name, body)
    if status == 404:
        assert body["message"] == "Resource not found", (name, body)
    return body


def zylon(answer: Answer, status: int, name: object) -> Any:
    """`{"type": "error", "error": {"type", "message"}}`."""
    body = _json(answer, status, name)
    assert set(body) == {"type", "error"}, (name, body)
    assert body["type"] == "error", (name, body)
    assert set(body["error"]) == {"type", "message"}, (name, body)
    assert body["error"]["type"] == _ZYLON[status], (name, body)
    assert _are(str, body["error"]["message"]), (name, body)
    return body


def responses(answer: Answer, status: int, name: object) -> Any:
    """`{"error": {"message", "type", "param", "code"}}`."""
    body = _json(answer, status, name)
    assert set(body) == {"error"}, (name, body)
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, (name, body)
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    assert error["type"] == kind, (name, body)
    assert _are(str, error["message"], error["code"]), (name, body)
    assert error["param"] is None or _are(str, error["param"]), (name, body)
    assert status == 400 or error["code"] in _RESPONSES[status], (name, body)
    return body


DIALECTS: Final[Mapping[str, Require]] = {
    "primary": primary,
    "mechamental": mechamental,
    "kodey": kodey,
    "zylon": zylon,
    "responses": responses,
}


def _json(answer: Answer, status: int, name: object) -> Any:
    told = (name, answer.status, answer.body[:300])
    assert answer.status == status, told
    assert answer.header("content-type") == "application/json", told
    if status == 401:
        assert answer.header("www-authenticate") == "Bearer", told
    if status == 405:
        assert answer.header("allow"), told
    if status == 429:
        assert int(answer.header("retry-after") or 0) > 0, told
    return answer.json


def _are(kind: type, *values: object) -> bool:
    """Whether all are of this kind, and none is empty."""
    return all(isinstance(value, kind) and value for value in values)
