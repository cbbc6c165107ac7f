"""What holds answers against the document does find what differs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fixtures.documented import check_answer

CHAT = "/api/v1/chat"
PROBLEM = {"detail": "x", "title": "Not Found", "status": 404, "type": "about:blank"}
ITEM = {"loc": ["query", "limit"], "msg": "x", "type": "int_parsing"}
LIST: dict[str, Any] = {"items": [], "nextCursor": None}


def answer(method: str, path: str, status: int, body: Any, type_: str = "application/json") -> Any:
    return httpx.Response(
        status,
        json=body,
        headers={"content-type": type_},
        request=httpx.Request(method, f"http://test{CHAT}{path}"),
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/threads", 200, LIST),
        ("GET", "/threads", 422, {"detail": [ITEM]}),
        ("GET", "/threads/x", 404, PROBLEM),
        ("PUT", "/threads/x", 405, {**PROBLEM, "status": 405}),
        ("POST", "/threads/bulk-delete", 200, {"deletedCount": 1}),
        ("GET", "/nothing", 404, PROBLEM),
    ],
)
def test_what_is_documented(method: str, path: str, status: int, body: Any) -> None:
    check_answer(answer(method, path, status, body))


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/threads", 200, {"items": []}),
        ("GET", "/threads", 200, {**LIST, "total": 0}),
        ("GET", "/threads", 200, {**LIST, "items": [{"id": "x"}]}),
        ("GET", "/threads", 201, LIST),
        ("GET", "/threads", 418, PROBLEM),
        ("GET", "/threads", 422, {"detail": [{**ITEM, "input": 1}]}),
        ("GET", "/threads", 422, {"detail": "x"}),
        ("GET", "/threads/x", 404, {"detail": "x"}),
        ("DELETE", "/threads/x", 204, {}),
        ("POST", "/threads/bulk-delete", 200, {"deletedCount": "1"}),
        ("PUT", "/threads/x", 200, {}),
    ],
)
def test_what_is_not(method: str, path: str, status: int, body: Any) -> None:
    with pytest.raises(AssertionError):
        check_answer(answer(method, path, status, body))


def test_a_body_of_another_type() -> None:
    with pytest.raises(AssertionError):
        check_answer(answer("GET", "/threads", 200, LIST, "text/plain"))
