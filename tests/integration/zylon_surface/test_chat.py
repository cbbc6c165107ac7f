"""One-shot chats leave nothing behind, and are validated as they are when they are asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from shared.service.transient_threads import TransientThreads
from shared.turn.model import Principal
from tests.fixtures.system import RunningWorker, StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.zylon_surface.conftest import Member, user_says


async def left(admin: Any) -> tuple[int, int]:
    """Living transient threads, and messages of any thread."""
    row = await admin.fetchrow(
        "select count(*) filter (where is_transient and deleted_at is null) as threads,"
        " (select count(*) from messages) as messages from threads"
    )
    return row["threads"], row["messages"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_nothing_stays_of_a_chat(
    member: Member, worker: RunningWorker, admin: Any, is_streamed: bool
) -> None:
    body = {"messages": [user_says("SECRET")], "stream": is_streamed, "system": "SECRET"}
    answered = await member.post("/chat", json=body)
    assert answered.status_code == 200, answered.text
    assert await left(admin) == (0, 0)
    (turn,) = await admin.fetch("select * from turns")
    assert "SECRET" not in str(dict(turn))
    assert await admin.fetchval("select count(*) from usage") == 1, "what was used is billed"
    thread = await admin.fetchval("select t::text from threads t")
    assert "SECRET" not in thread


async def test_no_list_shows_a_chat_that_runs(member: Member, admin: Any) -> None:
    """No worker runs, so it waits."""
    asking = asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))

    async def waits() -> bool:
        return bool(await admin.fetchval("select count(*) from turns"))

    await wait_until(waits, "the chat was accepted")
    for path in ("/threads", "/turns"):
        assert (await member.chat.get(path)).json()["items"] == []
    listed = await member.get(f"/project/{member.project_id}/thread")
    assert (listed.json()["data"], listed.json()["total_count"]) == ([], 0)
    (turn,) = await admin.fetch("select id, thread_id from turns")
    for path in (f"/thread/{turn['thread_id']}", f"/interaction/{turn['id']}"):
        assert (await member.get(path)).status_code == 404
    bulk = await member.chat.post("/threads/bulk-delete", json={"all": True})
    assert bulk.json() == {"deletedCount": 0}
    asking.cancel()
    await asyncio.wait([asking])


async def test_what_nobody_waited_for_is_removed_by_a_worker(
    member: Member,
    admin: Any,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client has left, or the process is gone: the turn runs, and then all of it goes."""
    monkeypatch.setattr("worker.sweeper.TRANSIENT_KEPT_S", 0.5)
    asking = asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))

    async def waits() -> bool:
        return (await left(admin)) == (1, 1)

    await wait_until(waits, "the chat was accepted")
    asking.cancel()
    await asyncio.wait([asking])
    assert await left(admin) == (1, 1)
    await start_worker()

    async def is_gone() -> bool:
        return (await left(admin)) == (0, 0)

    await wait_until(is_gone, "the sweeper has removed it")
    assert await admin.fetchval("select status::text from turns") == "completed"


async def test_a_chat_that_runs_is_not_removed(member: Member, admin: Any, app: Starlette) -> None:
    asking = asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))

    async def waits() -> bool:
        return (await left(admin)) == (1, 1)

    await wait_until(waits, "the chat was accepted")
    thread_id = await admin.fetchval("select id from threads")
    await TransientThreads(app.state.database).remove(thread_id)
    assert await left(admin) == (1, 1)
    asking.cancel()
    await asyncio.wait([asking])


async def test_an_ordinary_thread_is_never_removed(
    member: Member, worker: RunningWorker, admin: Any, app: Starlette
) -> None:
    made = await member.asked(await member.thread())
    thread_id = await admin.fetchval("select id from threads")
    await TransientThreads(app.state.database).remove(thread_id)
    assert (await member.get(f"/interaction/{made['id']}")).json() == made


async def test_a_thread_without_a_turn_is_left_to_the_sweeper(
    app: Starlette, principal: Principal, admin: Any
) -> None:
    threads = TransientThreads(app.state.database)
    thread_id = new_id()
    await threads.create(principal, thread_id)
    assert await app.state.database.fetch_many("list_over_transient_threads", 60.0, 9) == []
    await asyncio.sleep(0.02)
    rows = await app.state.database.fetch_many("list_over_transient_threads", 0.01, 9)
    assert [row["id"] for row in rows] == [thread_id]
    await threads.remove(thread_id)
    assert await left(admin) == (0, 0)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages: Messages cannot be empty"),
    "messages missing": ({}, "messages: Field required"),
    "no content": (
        {"messages": [{"role": "user", "content": []}]},
        "messages.0.content: Content cannot be empty",
    ),
    "only what nobody knows": (
        {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
        "messages.0.content: Content cannot be empty",
    ),
    "empty text": (
        {"messages": [user_says("")]},
        "messages.0.content.0.text: Text cannot be empty",
    ),
    "blank text": (
        {"messages": [user_says("  ")]},
        "messages.0.content: The last message must have a text",
    ),
    "last is the assistant's": (
        {"messages": [user_says("x"), {"role": "assistant", "content": "y"}]},
        "messages.1.role: The last message must be the user's",
    ),
    "last is a tool's": (
        {"messages": [user_says("x"), {"role": "tool", "content": "y"}]},
        "messages.1.role: The last message must be the user's: no tool call waits",
    ),
    "unknown role": ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role: Input"),
    "a boolean as a number": (
        {"messages": [user_says("x")], "max_tokens": True},
        "max_tokens: Input should be a valid integer",
    ),
    "more tokens than there are": (
        {"messages": [user_says("x")], "max_tokens": 10**12},
        "max_tokens: Input should be less than or equal to 10000000",
    ),
    "hotter than any": (
        {"messages": [user_says("x")], "temperature": 3},
        "temperature: Input should be less than or equal to 2",
    ),
    "an unknown tool": (
        {"messages": [user_says("x")], "tool_choice": {"name": "a"}},
        "tool_choice.name: There is no tool with this name",
    ),
    "a schema and tools": (
        {
            "messages": [user_says("x")],
            "tools": [{"name": "a"}],
            "response_format": {"type": "json_schema"},
        },
        "response_format: A schema and tools cannot be wanted together",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "data": "x"}]}]},
        "messages.0.content.0.type: Blocks of type image are not taken",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_one_validator_for_all(member: Member, admin: Any, case: str) -> None:
    """What `validate` finds, a chat and an interaction are refused for, in the same words."""
    body, told = WRONG[case]
    verdict = await member.post("/chat/validate", json=body)
    assert verdict.status_code == 400
    assert verdict.json()["valid"] is False
    assert verdict.json()["errors"][0].startswith(told), verdict.json()
    assert verdict.json()["warnings"] == []
    chat = await member.post("/chat", json=body)
    thread = await member.thread()
    interaction = await member.post(f"/thread/{thread}/interaction", json={"pgpt": body})
    assert chat.status_code == interaction.status_code == 400
    message = "; ".join(verdict.json()["errors"])
    assert chat.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": message},
    }
    nested = "; ".join(f"pgpt.{error}" for error in verdict.json()["errors"])
    assert interaction.json()["error"]["message"] == nested
    assert await admin.fetchval("select count(*) from turns") == 0


async def test_what_is_no_json_is_not_valid(member: Member) -> None:
    verdict = await member.post(
        "/chat/validate", content=b"{", headers={"content-type": "application/json"}
    )
    assert verdict.status_code == 400
    assert verdict.json()["valid"] is False
    assert verdict.json()["errors"]


async def test_warnings(member: Member) -> None:
    body = {"messages": [user_says("x")], "min_p": 0.1, "max_tokens": -1, "thinking": {}}
    verdict = await member.post("/chat/validate", json=body)
    assert verdict.status_code == 200
    assert verdict.json() == {
        "valid": True,
        "errors": None,
        "warnings": [
            "min_p has no effect", "thinking has no effect", "max_tokens: -1 counts as not given",
        ],
    }  # fmt: skip


async def test_max_tokens_bound_the_scripted_model_too(
    member: Member, worker: RunningWorker
) -> None:
    body = {"messages": [user_says("Hello")], "max_tokens": 3}
    told = (await member.post("/chat", json=body)).json()
    assert told["content"] == [{"type": "text", "text": "You wrote: “Hello”. "}]
    assert (told["stop_reason"], told["usage"]["output_tokens"]) == ("max_tokens", 3)
