"""Chats: what they are made of, and which ones a list shows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from shared.ids import new_id
from shared.service import chats as chats_module
from tests.fixtures.system import StartWorker
from tests.integration.kodey_surface.conftest import PRIMARY, AddMember, Member
from tests.integration.kodey_surface.test_keys import chats_of

SPECS = "/api/v1/agents/specs"
MARKDOWN = "---\nname: {slug}\nslug: {slug}\nmode: {mode}\n{more}tools: []\n---\nBe kind."


async def add_agent(member: Member, slug: str, mode: str = "primary", more: str = "") -> str:
    markdown = MARKDOWN.format(slug=slug, mode=mode, more=more)
    answered = await member.primary.post(SPECS, json={"markdown": markdown})
    assert answered.status_code == 201, answered.text
    return str(answered.json()["id"])


async def test_an_agent_is_named_by_id_or_slug(member: Member, add_member: AddMember) -> None:
    agent_id = await add_agent(member, "sales")
    for name in ("sales", agent_id, agent_id.upper()):
        made = (await member.secret.post("/chat", json={"agentId": name})).json()
        assert made["agentId"] == agent_id
        thread = (await member.primary.get(f"{PRIMARY}/threads/{made['id']}")).json()
        assert thread["agentSpecId"] == agent_id
    stranger = await add_member()
    foreign = await add_agent(stranger, "theirs")
    for name in ("nobody", "theirs", foreign, str(new_id()), "Not A Slug", "ä"):
        refused = await member.secret.post("/chat", json={"agentId": name})
        assert (refused.status_code, refused.json()["error"]) == (404, "Not Found"), name
    await add_agent(member, "helper", mode="subagent")
    refused = await member.secret.post("/chat", json={"agentId": "helper"})
    assert (refused.status_code, refused.json()["error"]) == (400, "Bad Request")
    assert (await member.secret.post("/chat", json={"userId": "u"})).status_code == 400


async def test_what_a_chat_is_given_it_keeps(member: Member) -> None:
    metadata = {"a": [1, {"b": "ü"}], "": None}
    body = {"agentId": "default", "userId": "Käthe ☕", "metadata": metadata}
    made = (await member.publishable.post("/chat", json=body)).json()
    got = (await member.publishable.get(f"/chat/{made['id']}")).json()
    assert got == made | {"messages": []}
    assert (got["userId"], got["metadata"]) == ("Käthe ☕", metadata)
    thread = (await member.primary.get(f"{PRIMARY}/threads/{made['id']}")).json()
    assert thread["metadata"] == metadata
    plain = (await member.secret.post("/chat", json={"agentId": "default", "userId": ""})).json()
    assert (plain["userId"], plain["metadata"]) == (None, {})


async def test_lists_are_filtered_and_newest_first(
    member: Member, start_worker: StartWorker
) -> None:
    await start_worker()
    await add_agent(member, "sales", more="type: crm\n")
    first = await member.secret.chat(userId="a")
    second = await member.secret.chat("sales", userId="b")
    third = await member.publishable.chat(userId="a")
    assert await chats_of(member.secret) == [third, second, first]
    assert await chats_of(member.secret, userId="a") == [third, first]
    assert await chats_of(member.secret, userId="a' or '1'='1") == []
    assert await chats_of(member.secret, agentType="crm") == [second]
    assert await chats_of(member.secret, agentType="primary") == [third, first]
    assert await chats_of(member.secret, agentType="primary", userId="b") == []
    assert await chats_of(member.secret, agentType="unknown") == []
    assert await chats_of(member.publishable, agentType="crm") == []
    assert await chats_of(member.secret, unknown="x", agentType="", userId="") == [
        third, second, first,
    ]  # fmt: skip
    assert (await member.secret.say(first, "x")).status_code == 200
    assert await chats_of(member.secret) == [first, third, second]
    listed = (await member.secret.get("/chat")).json()["chats"][0]
    assert set(listed) == {"id", "agentId", "userId", "createdAt"}


async def test_own_threads_count_as_chats_of_the_default_agent(member: Member) -> None:
    thread_id = (await member.primary.post(f"{PRIMARY}/threads")).json()["id"]
    (listed,) = (await member.secret.get("/chat")).json()["chats"]
    assert listed["id"] == thread_id
    agents = (await member.secret.get("/agent")).json()["agents"]
    assert listed["agentId"] == agents[0]["id"]
    assert await chats_of(member.secret, agentType="primary") == [thread_id]
    await add_agent(member, "sales", more="type: crm\n")
    assert await chats_of(member.secret, agentType="crm") == []


async def test_lists_are_bounded(
    member: Member, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_ids = [await member.publishable.chat(userId="u") for _ in range(4)][::-1]
    monkeypatch.setattr(chats_module, "MAX_CHATS", 3)
    for client in (member.secret, member.publishable):
        assert await chats_of(client) == chat_ids[:3]
        assert await chats_of(client, userId="u") == chat_ids[:3]
    for number in range(5):
        await admin.execute(
            "insert into messages (id, tenant_id, thread_id, role, content, format)"
            " values (gen_random_uuid(), $1, $2, 'user', $3, 'text')",
            member.tenant_id, UUID(chat_ids[0]), f"{number}" * 10,
        )  # fmt: skip
    monkeypatch.setattr(chats_module, "MAX_MESSAGES", 4)
    said = [text[0] for _, text in await member.secret.said(chat_ids[0])]
    assert said == ["1", "2", "3", "4"], "the newest, oldest first"
    monkeypatch.setattr(chats_module, "MAX_MESSAGE_BYTES", 25)
    said = [text[0] for _, text in await member.secret.said(chat_ids[0])]
    assert said == ["3", "4"]


async def test_a_deleted_chat_is_gone_everywhere_and_its_turn_is_cancelled(
    member: Member, admin: Any
) -> None:
    chat_id = await member.secret.chat()
    await member.primary.post(
        f"{PRIMARY}/threads/{chat_id}/turns", json={"message": "x", "modelId": "scripted"}
    )
    assert (await member.secret.delete(f"/chat/{chat_id}")).status_code == 204
    status = await admin.fetchval(
        "select status::text from turns where thread_id = $1", UUID(chat_id)
    )
    assert status == "cancelled"
    for path in (f"/chat/{chat_id}", f"/chat/{chat_id}/message", f"{PRIMARY}/threads/{chat_id}"):
        client = member.primary if path.startswith(PRIMARY) else member.secret
        assert (await client.get(path)).status_code == 404
    assert (await member.secret.say(chat_id, "x")).status_code == 404
    assert (await member.secret.delete(f"/chat/{chat_id}")).status_code == 404
    assert await chats_of(member.secret) == []
