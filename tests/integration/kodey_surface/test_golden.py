"""Every example of the vendor's pages, sent as printed, answered with every key and type printed.

Specification: https://developer.kodey.ai/docs/getting-started/kodey-api/chat-api and …/agent-api.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.fixtures.system import StartWorker
from tests.integration.kodey_surface.conftest import RATES, Client, Member

SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CREATED: dict[str, Any] = {
    "id": "string", "agentId": "string", "teamId": "string", "createdAt": "2024-01-15T10:30:00Z",
}  # fmt: skip
LISTED: dict[str, Any] = {
    "id": "string", "agentId": "string", "userId": "string", "createdAt": "2024-01-15T10:30:00Z",
}  # fmt: skip
ANSWERED: dict[str, Any] = {
    "id": "string", "chatId": "string", "content": "string", "role": "assistant",
    "createdAt": "2024-01-15T10:30:00Z",
}  # fmt: skip
AGENT: dict[str, Any] = {
    "name": "string", "description": "string", "systemPrompt": "string", "model": "scripted",
    "temperature": 0.7, "tools": [],
}  # fmt: skip


def require_shape(answered: Any, printed: Any) -> None:
    """Every key that is printed, with a value of the type that is printed."""
    match printed:
        case dict():
            for name, value in printed.items():
                require_shape(answered[name], value)
        case list():
            assert isinstance(answered, list)
            for value in answered:
                require_shape(value, printed[0])
        case "2024-01-15T10:30:00Z":
            assert SECOND.fullmatch(answered)
        case _:
            assert type(answered) is type(printed), (answered, printed)


@pytest.fixture(params=["publishable", "secret"])
def client(request: pytest.FixtureRequest, member: Member) -> Client:
    chosen: Client = getattr(member, request.param)
    return chosen


async def test_chats(client: Client, member: Member, start_worker: StartWorker) -> None:
    await start_worker()
    body = {"agentId": "default", "userId": "string", "metadata": {}}
    created = await client.post("/chat", json=body)
    assert created.status_code == 200
    require_shape(created.json(), CREATED)
    chat = created.json()
    assert chat["teamId"] == str(member.tenant_id)

    listed = await client.get("/chat", params={"userId": "string", "agentType": "primary"})
    assert listed.status_code == 200
    require_shape(listed.json(), {"chats": [LISTED]})
    assert [found["id"] for found in listed.json()["chats"]] == [chat["id"]]

    answered = await client.post(
        f"/chat/{chat['id']}/message", json={"content": "string", "role": "user"}
    )
    assert answered.status_code == 200
    require_shape(answered.json(), ANSWERED)
    assert answered.json()["chatId"] == chat["id"]
    assert answered.json()["content"]

    messages = await client.get(f"/chat/{chat['id']}/message")
    assert messages.status_code == 200
    printed = {"id": "string", "content": "string", "createdAt": "2024-01-15T10:30:00Z"}
    require_shape(messages.json(), {"messages": [printed]})
    assert [m["role"] for m in messages.json()["messages"]] == ["user", "assistant"]
    assert messages.json()["messages"][1]["id"] == answered.json()["id"]

    got = await client.get(f"/chat/{chat['id']}")
    assert got.status_code == 200
    require_shape(got.json(), CREATED)
    assert got.json()["messages"] == messages.json()["messages"]

    deleted = await client.delete(f"/chat/{chat['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get(f"/chat/{chat['id']}")).status_code == 404
    for response in (created, listed, answered, messages, got, deleted):
        assert all(response.headers[name].isdigit() for name in RATES)


async def test_agents(member: Member) -> None:
    client = member.secret
    created = await client.post("/agent", json=AGENT)
    assert created.status_code == 200
    at = "2024-01-15T10:30:00Z"
    printed = {"id": "s", "name": "s", "description": "s", "teamId": "s", "createdAt": at}
    require_shape(created.json(), printed)
    path = f"/agent/{created.json()['id']}"

    listed = await client.get("/agent")
    assert listed.status_code == 200
    assert {agent["name"] for agent in listed.json()["agents"]} == {"Assistant", "string"}
    printed = {"id": "s", "name": "s", "description": "s", "createdAt": at}
    require_shape(listed.json(), {"agents": [printed]})

    got = await client.get(path)
    assert got.status_code == 200
    require_shape(got.json(), AGENT | {"id": "string", "createdAt": at})
    assert {name: got.json()[name] for name in AGENT} == AGENT

    updated = await client.put(path, json=AGENT | {"name": "another", "temperature": 1})
    assert updated.status_code == 200
    require_shape(updated.json(), {"id": "string", "name": "string", "updatedAt": at})
    assert (await client.get(path)).json()["name"] == "another"

    rolled = await client.put(f"{path}/rollback")
    assert rolled.status_code == 200
    require_shape(rolled.json(), {"id": "string", "name": "string", "rolledBackAt": at})
    assert (rolled.json()["name"], rolled.json()["version"]) == ("string", 3)

    deleted = await client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get(path)).status_code == 404


async def test_errors_are_those_printed(member: Member) -> None:
    stranger = await member.secret.get("/chat", headers={"x-api-key": "sk_live_unknown"})
    assert (stranger.status_code, stranger.json()) == (
        401,
        {"message": "Unauthorized: Invalid API key."},
    )
    public = await member.publishable.get("/agent")
    assert public.status_code == 403
    assert public.json() == {
        "error": "Forbidden",
        "message": "This endpoint requires a secret API key (sk_live_*). You are using a"
        " publishable API key (pk_live_*) which only has access to chat and message endpoints.",
        "allowedEndpoints": [
            "POST /chat - Create a chat",
            "GET /chat/:chatId - Get chat details",
            "POST /chat/:chatId/message - Send a message",
            "GET /chat/:chatId/message - List messages",
        ],
        "upgradeInstructions": "Publishable API keys are restricted to chat endpoints. Please use"
        " your secret API key (sk_live_*) for full API access.",
    }
    absent = await member.secret.get("/chat/string")
    assert absent.json() == {"error": "Not Found", "message": "Resource not found"}
    wrong = await member.secret.post("/chat", json={})
    assert (wrong.status_code, wrong.json()) == (
        400,
        {"error": "Bad Request", "message": "agentId: Field required"},
    )
