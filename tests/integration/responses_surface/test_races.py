"""Requests that come at once, or again: nothing is said twice, nothing accepted is lost."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette

from shared.errors import QueueFull
from shared.ids import new_id
from shared.service.shared_threads import NewMessage
from shared.turn.model import Principal
from tests.fixtures.system import StartWorker
from tests.integration.responses_surface.conftest import (
    CONVERSATIONS,
    RESPONSES,
    User,
    scripted,
)

BROUGHT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
SAID = ["Be brief.", "one", "two", "three"]


async def new_conversation(user: User) -> str:
    return str((await user.post(CONVERSATIONS, json={})).json()["id"])


async def texts_of(user: User, conversation: str) -> list[str]:
    listed = await user.get(f"{CONVERSATIONS}/{conversation}/items?order=asc&limit=100")
    return [item["content"][0]["text"] for item in listed.json()["data"]]


async def post_at_once(user: User, count: int, body: Any, **headers: str) -> list[int]:
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(user.post(RESPONSES, json=body, headers=headers))
            for _ in range(count)
        ]
    return sorted(post.result().status_code for post in posts)


async def test_what_equal_requests_bring_along_is_there_once(user: User) -> None:
    conversation = await new_conversation(user)
    body = {
        "input": BROUGHT, "conversation": conversation, "background": True, **scripted("ok")
    }  # fmt: skip
    statuses = await post_at_once(user, 6, body, **{"idempotency-key": "k"})
    assert statuses == [200] * 6
    assert await texts_of(user, conversation) == SAID


async def test_of_many_first_requests_one_brings_its_messages_along(user: User) -> None:
    conversation = await new_conversation(user)
    body = {
        "input": BROUGHT, "conversation": conversation, "background": True, **scripted("ok")
    }  # fmt: skip
    assert await post_at_once(user, 6, body) == [200] + [400] * 5
    assert await texts_of(user, conversation) == SAID


async def test_a_key_that_is_used_for_another_conversation_leaves_nothing_in_this_one(
    user: User,
) -> None:
    conversations = [await new_conversation(user) for _ in range(6)]
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(
                user.post(
                    RESPONSES,
                    json={
                        "input": BROUGHT, "conversation": conversation, "background": True,
                        **scripted("ok"),
                    },
                    headers={"idempotency-key": "k"},
                )
            )
            for conversation in conversations
        ]  # fmt: skip
    assert sorted(post.result().status_code for post in posts) == [200] + [400] * 5
    told = sorted([await texts_of(user, conversation) for conversation in conversations], key=len)
    assert told == [[]] * 5 + [SAID]


async def test_what_was_refused_has_brought_nothing_along(
    user: User, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await new_conversation(user)
    body = {"input": BROUGHT, "conversation": conversation, "background": True, **scripted("ok")}

    async def refuse(_: object) -> None:
        raise QueueFull("full", reason="x", retry_after_s=1)

    with monkeypatch.context() as patched:
        patched.setattr(app.state.turns, "submit", refuse)
        assert (await user.post(RESPONSES, json=body)).status_code == 429
    assert await texts_of(user, conversation) == []
    assert (await user.post(RESPONSES, json=body)).status_code == 200
    assert await texts_of(user, conversation) == SAID


async def test_a_response_that_comes_while_one_is_deleted_is_refused_or_kept(
    user: User, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation goes with its last response in one commit: nothing comes in between."""
    first = (await user.post(RESPONSES, json={"input": "x", "background": True})).json()
    body = {"input": "y", "conversation": first["conversation"]["id"], "background": True}
    hide, came = app.state.exchanges.hide, []

    async def hide_and_be_slow(*args: Any, **more: Any) -> Any:
        hidden = await hide(*args, **more)
        came.append(await user.post(RESPONSES, json=body))
        return hidden

    monkeypatch.setattr(app.state.exchanges, "hide", hide_and_be_slow)
    assert (await user.delete(f"{RESPONSES}/{first['id']}")).status_code == 200
    (second,) = came
    if second.status_code == 200:
        kept = await user.get(f"{RESPONSES}/{second.json()['id']}")
        assert kept.json()["status"] == "queued"
    else:
        assert second.status_code == 404


async def test_a_conversation_with_another_response_stays(user: User) -> None:
    first = (await user.post(RESPONSES, json={"input": "x", "background": True})).json()
    conversation = first["conversation"]["id"]
    body = {"input": "y", "conversation": conversation, "background": True}
    second = (await user.post(RESPONSES, json=body)).json()
    assert (await user.delete(f"{RESPONSES}/{first['id']}")).status_code == 200
    assert await texts_of(user, conversation) == ["y"]
    assert (await user.get(f"{RESPONSES}/{second['id']}")).json()["status"] == "queued"


async def test_what_a_deleted_response_has_brought_along_is_deleted_with_it(user: User) -> None:
    """Its own messages, and those that a fork has copied for it."""
    made = (await user.post(RESPONSES, json={"input": BROUGHT, "background": True})).json()
    conversation = made["conversation"]["id"]
    assert await texts_of(user, conversation) == SAID
    assert (await user.delete(f"{RESPONSES}/{made['id']}")).status_code == 200
    assert (await user.get(f"{CONVERSATIONS}/{conversation}")).status_code == 404
    assert (await user.get("/threads")).json()["items"] == []


async def test_a_fork_holds_what_was_said_by_then_in_its_order(
    user: User, app: Starlette, start_worker: StartWorker, admin: Any
) -> None:
    """Also what no turn has made, but another surface has stored in between."""
    await start_worker()
    conversation = await new_conversation(user)
    thread_id = UUID(conversation.removeprefix("conv_"))
    owner_id = await admin.fetchval("select user_id from threads where id = $1", thread_id)
    owner = Principal(user.tenant_id, owner_id, new_id())

    async def store(text: str) -> None:
        await app.state.shared_threads.append(owner, thread_id, NewMessage("user", text))

    made = []
    for number in range(3):
        await store(f"before {number}")
        asked = {"input": f"ask {number}", "conversation": conversation}
        answered = await user.post(RESPONSES, json={**asked, **scripted(f"say {number}")})
        made.append(answered.json()["id"])
    body = {"input": "fork", "previous_response_id": made[1], **scripted("ok")}
    forked = (await user.post(RESPONSES, json=body)).json()
    said = await texts_of(user, forked["conversation"]["id"])
    assert said == [
        "before 0", "ask 0", "say 0", "before 1", "ask 1", "say 1", "before 2", "fork", "ok",
    ]  # fmt: skip
