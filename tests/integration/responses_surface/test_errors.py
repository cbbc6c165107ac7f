"""What errors say, and that foreign, unknown and malformed ids look alike; the rest is in
`tests/security/matrix.py`.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.admission import RateLimit
from api.app import create_app
from api.openapi import Operation
from api.responses.surface import SURFACE
from shared.errors import PostgresUnavailable
from shared.ids import new_id
from shared.settings import Settings
from tests.integration.responses_surface.conftest import (
    CONVERSATIONS,
    RESPONSES,
    AddUser,
    User,
    require_error,
    scripted,
)

BODIES: dict[str, Any] = {
    "create_response": {"input": "x", "background": True, **scripted("ok")},
    "create_conversation": {"metadata": {"a": "b"}},
    "update_conversation": {"metadata": {"a": "c"}},
}
OPERATIONS = SURFACE.operations
WITH_ID = [operation for operation in OPERATIONS if operation.path_parameters]
WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]


def of(operation: Operation) -> str:
    return operation.operation_id


async def place(user: User) -> dict[str, str]:
    """A response of the user that waits, and its conversation."""
    made = (await user.post(RESPONSES, json=BODIES["create_response"])).json()
    return {"response_id": made["id"], "conversation_id": made["conversation"]["id"]}


async def ask(user: httpx.AsyncClient, operation: Operation, **wanted: Any) -> httpx.Response:
    ids = wanted.pop("ids", {"response_id": "x", "conversation_id": "x"})
    path = operation.path.format(**ids)
    if operation.body is not None and not wanted.keys() & {"json", "content"}:
        wanted["json"] = BODIES[operation.operation_id]
    return await user.request(operation.method, f"http://test{path}", **wanted)


def told(answered: httpx.Response) -> Any:
    headers = {n: v for n, v in answered.headers.items() if n != "date"}
    return answered.status_code, headers, answered.content


def test_every_body_has_a_valid_one() -> None:
    assert {operation.operation_id for operation in WITH_BODY} == set(BODIES)


@pytest.mark.parametrize("operation", WITH_ID, ids=of)
async def test_what_is_not_ones_own_is_unknown(
    user: User, add_user: AddUser, operation: Operation
) -> None:
    """Of another tenant, of a colleague, of nobody, malformed: the same bytes."""
    theirs = await place(user)
    unknown = {"response_id": f"resp_{new_id().hex}", "conversation_id": f"conv_{new_id().hex}"}
    swapped = {
        "response_id": "resp_" + theirs["conversation_id"].removeprefix("conv_"),
        "conversation_id": "conv_" + theirs["response_id"].removeprefix("resp_"),
    }
    bare = {name: value.partition("_")[2] for name, value in theirs.items()}
    upper = {name: value.upper() for name, value in theirs.items()}
    nonsense = {"response_id": "é", "conversation_id": "%25"}
    for intruder in (await add_user(), await add_user(user.tenant_id)):
        answers = [
            await ask(intruder, operation, ids=ids)
            for ids in (theirs, unknown, swapped, bare, upper, nonsense)
        ]
        for answered in answers:
            require_error(answered, 404)
        assert len({str(told(answered)) for answered in answers}) == 1
    assert (await user.get(f"{RESPONSES}/{theirs['response_id']}")).json()["status"] == "queued"


@pytest.mark.parametrize("path", ["/v1/responses/a/b/c", "/v1/conversations/", "/v1/responses/"])
async def test_paths_that_lead_nowhere(user: User, path: str) -> None:
    require_error(await user.get(f"http://test{path}"), 404, "not_found")


WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"input": None}, "input", "invalid_type"),
    ({"input": ""}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": [{"role": "assistant", "content": "x"}]}, "input", "invalid_value"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
     "input[0].content[0].type", "unsupported_value"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
     "input[0].type", "unsupported_value"),
    ({"model": "gpt-99"}, "model", "model_not_found"),
    ({"model": 5}, "model", "invalid_type"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"max_output_tokens": 1.5}, "max_output_tokens", "invalid_type"),
    ({"background": "yes"}, "background", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
    ({"tools": [{"type": "web_search"}]}, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format.type", "unsupported_value"),
    ({"store": False}, "store", "unsupported_value"),
    ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
    ({"previous_response_id": "a", "conversation": "b"}, "conversation", "invalid_value"),
    ({"settings": {"script": {"deltas": "many"}}}, None, "invalid_type"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "param", "code"), WRONG, ids=lambda value: str(value)[:60])
async def test_wrong_values(
    user: User, wrong: dict[str, Any], param: str | None, code: str
) -> None:
    answered = await user.post(RESPONSES, json=BODIES["create_response"] | wrong)
    error = require_error(answered, 400, code)
    assert error["type"] == "invalid_request_error"
    assert "Value error" not in error["message"]
    if param is not None:
        assert error["param"] == param
    listed = (await user.get("/threads")).json()["items"]
    assert listed == [], "nothing was made of it"


async def test_an_unknown_conversation_is_not_found(user: User) -> None:
    body = BODIES["create_response"] | {"conversation": f"conv_{new_id().hex}"}
    require_error(await user.post(RESPONSES, json=body), 404, "conversation_not_found")


async def test_wrong_queries(user: User) -> None:
    ids = await place(user)
    one, items = f"{RESPONSES}/{ids['response_id']}", "input_items?"
    for query in ("?stream=maybe", "?stream=true&starting_after=x", "?stream=true&stream=false"):
        require_error(await user.get(one + query), 400)
    for query in ("limit=0", "limit=101", "limit=1.5", "order=up"):
        require_error(await user.get(f"{one}/{items}{query}"), 400)
        path = f"{CONVERSATIONS}/{ids['conversation_id']}/items?{query}"
        require_error(await user.get(path), 400)
    for path in (f"{one}/{items}", f"{CONVERSATIONS}/{ids['conversation_id']}/items?"):
        for after in ("x", f"msg_{new_id().hex}"):
            require_error(await user.get(f"{path}after={after}"), 404, "item_not_found")


async def test_unknown_fields_are_ignored(user: User) -> None:
    more = {
        "status": "x",
        "usage": 1,
        "user": "u",
        "include": ["x"],
        "reasoning": {"effort": "low"},
    }
    assert (await user.post(RESPONSES, json=BODIES["create_response"] | more)).status_code == 200


@pytest.mark.parametrize("operation", OPERATIONS, ids=of)
async def test_errors_of_ours(
    user: User, app: Starlette, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await place(user)

    def failing(error: Exception) -> Any:
        async def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    asked = app.state.credentials
    for error, status, code in (
        (PostgresUnavailable("secret"), 503, "postgres_unavailable"),
        (RuntimeError("secret"), 500, "internal_server_error"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(asked, "find_known", lambda _: None)
            patch.setattr(asked, "authenticate", failing(error))
            answered = await ask(user, operation, ids=ids)
        told_error = require_error(answered, status, code)
        assert told_error["type"] == "server_error"
        assert "secret" not in answered.text


async def test_too_many_requests(settings: Settings, user: User) -> None:
    app = create_app(settings.model_copy(update={"rate_limit_per_minute": 1}))
    assert isinstance(app.state.rate_limit, RateLimit)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, headers=user.headers) as client:
            assert (await client.get(f"{CONVERSATIONS}/x")).status_code == 404
            answered = await client.get(f"{CONVERSATIONS}/x")
    error = require_error(answered, 429, "rate_limit_exceeded")
    assert error["type"] == "rate_limit_error"
    assert int(answered.headers["retry-after"]) > 0
    assert answered.headers["x-ratelimit-limit"] == "1"
