"""Errors that are ours, or of too much; the rest is in `tests/security/matrix.py`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.app import ALL_OPERATIONS
from api.openapi import Operation, build_document
from api.zylon.surface import SURFACE
from shared.errors import PostgresUnavailable
from shared.ids import new_id
from shared.settings import Settings
from tests.integration.zylon_surface.conftest import Member

OPERATIONS = SURFACE.operations
CHAT = {"messages": [{"role": "user", "content": "x"}]}
VALID: dict[str, Any] = {
    "zylon_create_project": {"name": "x", "visibility": "Public"},
    "zylon_create_thread": {"name": "x", "visibility": "Private"},
    "zylon_update_thread": {"name": "x"},
    "zylon_create_interaction": {"pgpt": CHAT},
    "zylon_chat": CHAT,
    "zylon_validate_chat": CHAT,
}


def by_id(operation: Operation) -> str:
    return operation.operation_id


def path_of(operation: Operation) -> str:
    """The path with unknown ids."""
    path = operation.path
    for name in operation.path_parameters:
        path = path.replace(f"{{{name}}}", str(new_id()))
    return f"http://test{path}"


def require_error(answered: httpx.Response, status: int, kind: str) -> None:
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/json"
    told = answered.json()
    assert told.keys() == {"type", "error"}
    assert told["type"] == "error"
    assert told["error"].keys() == {"type", "message"}
    assert told["error"]["type"] == kind
    assert isinstance(told["error"]["message"], str)
    assert told["error"]["message"]


async def ask(who: httpx.AsyncClient, operation: Operation) -> httpx.Response:
    """A valid request, but for its ids."""
    sent: dict[str, Any] = {}
    if operation.body is not None:
        sent["json"] = VALID[operation.operation_id]
    elif operation.form is not None:
        sent["files"] = {"fileData": ("a.txt", b"x")}
    return await who.request(operation.method, path_of(operation), **sent)


@pytest.mark.parametrize("path", ["", "/", "/nothing", "/thread", "/thread/a/b/c", "/interaction/"])
async def test_a_path_that_leads_nowhere(member: Member, path: str) -> None:
    answered = await member.get(f"http://test/api/v1/app{path}")
    require_error(answered, 404, "not_found_error")


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_id)
async def test_when_postgres_is_away_or_we_are_at_fault(
    member: Member, operation: Operation, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, kind in (
        (PostgresUnavailable("x"), 503, "overloaded_error"),
        (RuntimeError("secret"), 500, "api_error"),
    ):
        raised = error

        async def fail(*_: object, raised: Exception = raised) -> None:
            raise raised

        monkeypatch.setattr(app.state.credentials, "find_known", lambda _: None)
        monkeypatch.setattr(app.state.credentials, "authenticate", fail)
        answered = await ask(member, operation)
        require_error(answered, status, kind)
        assert "secret" not in answered.text


class TestRate:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"rate_limit_per_minute": 1})

    @pytest.mark.parametrize("operation", OPERATIONS, ids=by_id)
    async def test_too_many_requests(self, member: Member, operation: Operation) -> None:
        """`GET /me`, with which the member begins, was the one that is free."""
        answered = await ask(member, operation)
        vital = {"zylon_get_interaction", "zylon_cancel_interaction"}
        if operation.operation_id in vital:
            require_error(answered, 404, "not_found_error")
            return
        require_error(answered, 429, "rate_limit_error")
        assert int(answered.headers["retry-after"]) > 0
        assert answered.headers["x-ratelimit-limit"] == "1"


class TestFull:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_queued_per_key": 1, "max_streams": 1})

    async def test_a_full_line(self, member: Member) -> None:
        """No worker runs."""
        thread = await member.thread()
        await member.asked(thread, pgpt={"stream": True})
        refused = await member.ask(thread, pgpt={"stream": True})
        require_error(refused, 429, "rate_limit_error")


def test_operations_have_names_of_their_own() -> None:
    ids = [operation.operation_id for operation in ALL_OPERATIONS]
    assert len(ids) == len(set(ids))
    assert all(one.operation_id.startswith("zylon_") for one in OPERATIONS)


def test_the_document_tells_of_its_errors() -> None:
    document = build_document(ALL_OPERATIONS)
    for operation in OPERATIONS:
        told = document["paths"][operation.path][operation.method.lower()]
        assert told["security"] == [{"bearer": []}]
        for status, response in told["responses"].items():
            if status.startswith("2"):
                continue
            is_verdict = (operation.operation_id, status) == ("zylon_validate_chat", "400")
            name = "ZylonValidation" if is_verdict else "ZylonError"
            schema = response["content"]["application/json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{name}"}
        assert "422" not in told["responses"]
