"""What errors say beyond their dialect, which `tests/security/matrix.py` holds on every route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.mechamental.surface import SURFACE
from api.openapi import Operation
from shared.errors import PostgresUnavailable
from shared.settings import Settings
from tests.integration.mechamental_surface.conftest import Mm

CODES = {
    404: "RESOURCE_NOT_FOUND",
    429: "RATE_LIMIT_EXCEEDED",
    500: "INTERNAL_SERVER_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
OPERATIONS = SURFACE.operations
WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]


def name_of(operation: Operation) -> str:
    return operation.operation_id


every_route = pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)


def url(operation: Operation, org: object, name: str = "x") -> str:
    path = operation.path.replace("{org_id}", str(org))
    for parameter in operation.path_parameters:
        path = path.replace(f"{{{parameter}}}", name)
    is_delete = operation.path.endswith("{message_id}")
    return f"{path}?timestamp=2026-01-01T00:00:00Z" if is_delete else path


def body(operation: Operation, name: str = "x") -> dict[str, Any] | None:
    if operation.body is None:
        return None
    ids = dict.fromkeys(("workspace_id", "app_id", "namespace_id", "thread_id"), name)
    return {**ids, "role": "user", "content": "x"}


def require_problem(answered: httpx.Response, status: int) -> dict[str, Any]:
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/json"
    told: dict[str, Any] = answered.json()
    assert list(told) == ["error", "message", "details", "timestamp", "status_code"]
    assert (told["error"], told["status_code"]) == (CODES[status], status)
    assert told["timestamp"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(told["timestamp"])
    assert abs(age.total_seconds()) < 60
    return told


@pytest.fixture
async def anybody(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@every_route
async def test_404_of_an_organization(mm: Mm, operation: Operation) -> None:
    told = []
    for org in ("nobody", "00000000-0000-0000-0000-000000000000"):
        path = url(operation, org)
        answered = await mm.request(operation.method, path, json=body(operation))
        problem = require_problem(answered, 404)
        assert problem["details"] == {"resource_type": "organization", "resource_id": org}
        told.append(problem["message"])
    assert told == ["Organization not found"] * 2


@pytest.mark.parametrize(
    "operation",
    [o for o in OPERATIONS if "{thread_id}" in o.path and "create" not in o.operation_id],
    ids=name_of,
)
async def test_404_of_a_thread(mm: Mm, operation: Operation) -> None:
    path = url(operation, mm.tenant_id)
    answered = await mm.request(operation.method, path, json=body(operation))
    told = require_problem(answered, 404)
    assert told["message"] == "Thread not found"
    assert told["details"] == {"resource_type": "thread", "resource_id": "x"}


@pytest.mark.parametrize("path", ["/v1/orgs", "/v1/orgs/", "/v1/orgs/x", "/v1/orgs/x/y"])
async def test_404_of_a_path_that_leads_nowhere(anybody: httpx.AsyncClient, path: str) -> None:
    require_problem(await anybody.get(path), 404)


@pytest.mark.parametrize("operation", WITH_BODY, ids=name_of)
@pytest.mark.parametrize(
    ("content", "type_"),
    [
        (b"[", "json_invalid"),
        (b'{"a": 1, "a": 2}', "json_invalid"),
        (b'{"a": "\\u0000"}', "json_invalid"),
        (b"[]", "dict_type"),
        (b'{"thread_id": 7}', "string_type"),
    ],
)
async def test_422(mm: Mm, operation: Operation, content: bytes, type_: str) -> None:
    answered = await mm.post(
        url(operation, mm.tenant_id),
        content=content,
        headers={"content-type": "application/json"},
    )
    assert answered.status_code == 422, answered.text
    assert list(answered.json()) == ["detail"]
    items = answered.json()["detail"]
    assert type_ in [item["type"] for item in items]
    for item in items:
        assert list(item) == ["loc", "msg", "type", "input", "ctx"]
        assert item["loc"][0] == "body"


async def test_a_large_input_is_not_repeated(mm: Mm) -> None:
    place = mm.place()
    answered = await mm.post(place.path, json={"content": "x" * 100_000})
    assert answered.status_code == 422
    assert len(answered.content) < 2000
    assert {item["input"] for item in answered.json()["detail"]} == {None}


@every_route
async def test_500_and_503(
    app: Starlette, mm: Mm, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status in ((RuntimeError("secret"), 500), (PostgresUnavailable("secret"), 503)):

        async def fail(*_: object, error: Exception = error) -> bool:
            raise error

        monkeypatch.setattr(type(app.state.users), "is_organization", fail)
        answered = await mm.request(
            operation.method, url(operation, mm.tenant_id), json=body(operation)
        )
        told = require_problem(answered, status)
        assert "secret" not in answered.text
        if status == 500:
            assert (told["message"], told["details"]) == ("An unexpected error occurred", {})
        else:
            assert answered.headers["retry-after"] == str(told["details"]["retry_after"])


class TestLimited:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"rate_limit_per_minute": 1})

    @every_route
    async def test_429(self, mm: Mm, operation: Operation) -> None:
        path = url(operation, mm.tenant_id)
        answers = [
            await mm.request(operation.method, path, json=body(operation)) for _ in range(30)
        ]
        refused = next(answered for answered in answers if answered.status_code == 429)
        told = require_problem(refused, 429)
        assert told["details"] == {"retry_after": int(refused.headers["retry-after"])}
        for answered in answers:
            assert "x-ratelimit-limit" in answered.headers


async def test_a_message_of_an_active_turn_is_not_deleted(mm: Mm) -> None:
    thread_id = await mm.chat.thread()
    turn = (await mm.chat.submit(thread_id, message="asked")).json()
    place = mm.place(workspace="default", app="default", namespace="default", thread=thread_id)
    (message,) = (await mm.get(place.path)).json()["messages"]
    path = f"{place.path}/{message['message_id']}?timestamp={message['created_at']}"
    refused = await mm.delete(path)
    assert refused.status_code == 409
    assert refused.json()["error"] == "CONFLICT"
    assert refused.json()["details"] == {"execution_id": turn["id"]}
    assert await mm.listed(place) == ["asked"]
