"""One dialect for every error; nothing internal in any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.problems import (
    EXCEPTION_HANDLERS,
    MAX_TOLD,
    STATUS_OF,
    ErrorReport,
    InvalidFields,
    fields_of,
    problem_response,
)
from shared import errors


def leaves(root: type[errors.TurnkeepError]) -> Iterator[type[errors.TurnkeepError]]:
    children = [child for child in root.__subclasses__() if child.__module__ == "shared.errors"]
    if not children:
        yield root
    for child in children:
        yield from leaves(child)


@pytest.mark.parametrize("leaf", list(leaves(errors.TurnkeepError)), ids=lambda leaf: leaf.__name__)
def test_no_error_lacks_a_status(leaf: type[errors.TurnkeepError]) -> None:
    assert leaf in STATUS_OF


PROBLEMS: list[tuple[Exception, int, dict[str, Any], dict[str, str]]] = [
    (
        errors.NotAuthenticated("secret reason"),
        401,
        {"detail": "Not authenticated", "title": "Unauthorized"},
        {"www-authenticate": "Bearer"},
    ),
    (
        errors.TooManyFailures(17),
        429,
        {"detail": "Rate limit exceeded", "title": "Too Many Requests"},
        {"retry-after": "17"},
    ),
    (errors.ThreadNotFound(), 404, {"detail": "Thread not found", "title": "Not Found"}, {}),
    (errors.TurnNotFound(), 404, {"detail": "Turn not found", "title": "Not Found"}, {}),
    (
        errors.ConcurrencyConflict("t-1"),
        409,
        {
            "detail": "Thread already has an active turn",
            "title": "Conflict",
            "turnId": "t-1",
        },
        {},
    ),
    (
        errors.CursorExpired("t-2"),
        410,
        {
            "detail": "Events before this cursor are no longer kept; read the turn instead",
            "title": "Gone",
            "turnId": "t-2",
        },
        {},
    ),
    (
        errors.PostgresUnavailable("/run/secret.sock refused"),
        503,
        {"detail": "The service is temporarily unavailable", "title": "Service Unavailable"},
        {"retry-after": "2"},
    ),
    (
        HTTPException(405, headers={"Allow": "GET"}),
        405,
        {"detail": "Method Not Allowed", "title": "Method Not Allowed"},
        {"allow": "GET"},
    ),
    (
        ValueError("a defect"),
        500,
        {"detail": "Internal Server Error", "title": "Internal Server Error"},
        {},
    ),
]


@pytest.mark.parametrize(("error", "status", "body", "headers"), PROBLEMS)
def test_problem(
    error: Exception, status: int, body: dict[str, Any], headers: dict[str, str]
) -> None:
    response = problem_response(error)
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {**body, "status": status, "type": "about:blank"}
    assert headers.items() <= dict(response.headers).items()
    assert response.headers["content-type"] == "application/json"


def test_one_wrong_value() -> None:
    error = errors.IdempotencyKeyReused()
    response = problem_response(error)
    assert response.status_code == 422
    assert json.loads(bytes(response.body)) == {
        "detail": [
            {
                "loc": ["header", "Idempotency-Key"],
                "msg": "This idempotency key was used with a different request",
                "type": "idempotency_key_reused",
            }
        ]
    }


def test_several_wrong_values() -> None:
    items = [{"loc": ["body", "a"], "msg": "m", "type": "t"}] * 2
    assert json.loads(bytes(problem_response(InvalidFields(items)).body)) == {"detail": items}


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [
        ("/ours", True),
        ("/ours/and/more", True),
        ("/oursandmore", False),
        ("/", False),
        ("/other/ours", False),
    ],
)
async def test_each_prefix_has_its_own_dialect(path: str, is_ours: bool) -> None:
    """Also for paths that lead nowhere."""

    def tell(_: Request, report: ErrorReport) -> Response:
        return Response(f"ours {report.status}", report.status)

    app = Starlette(exception_handlers=dict(EXCEPTION_HANDLERS))
    app.state.dialects = (("/ours", tell),)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert (answer.text == "ours 404") is is_ours


async def test_the_application_never_answers_in_plain_text() -> None:
    async def break_down(_: Request) -> Response:
        raise RuntimeError("the database password is 1234")

    app = Starlette(
        routes=[Route("/defect", break_down, methods=["POST"])],
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = [
            (await client.post("/defect"), 500),
            (await client.get("/defect"), 405),
            (await client.get("/nowhere"), 404),
        ]
    for answer, status in answers:
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"detail", "title", "status", "type"}
        assert "1234" not in answer.text
    assert answers[1][0].headers["allow"] == "POST"


def test_more_wrong_values_than_anybody_reads_are_counted() -> None:
    class Body(BaseModel):
        values: list[int]

    def items_of(count: int) -> list[dict[str, Any]]:
        with pytest.raises(ValidationError) as wrong:
            Body.model_validate({"values": ["x"] * count})
        return fields_of(wrong.value, "body").items

    assert len(items_of(MAX_TOLD)) == MAX_TOLD
    (item,) = items_of(MAX_TOLD + 1)
    assert item == {
        "loc": ["body"],
        "msg": f"{MAX_TOLD + 1} values are wrong, which are too many to tell each",
        "type": "too_many_errors",
    }
