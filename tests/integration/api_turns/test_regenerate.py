"""Answering a message anew: what readers and models see before, meanwhile and afterwards."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from shared.postgres.rows import turn_from_row
from shared.turn.model import Principal
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User


def script(text: str, **wanted: Any) -> dict[str, Any]:
    return {"script": {"text": text, "intervalMs": 0, **wanted}}


async def ask(user: User, thread: str, message: str, answer: str) -> dict[str, Any]:
    """A turn that has ended."""
    answered = await user.post(
        f"/threads/{thread}/turns",
        json={"message": message, "modelId": "scripted", "settings": script(answer)},
        headers={"prefer": "wait=10"},
    )
    assert answered.status_code == 200, answered.text
    turn: dict[str, Any] = answered.json()
    assert turn["status"] == "completed"
    return turn


async def redo(user: User, thread: str, answer: str = "new", **body: Any) -> httpx.Response:
    settings = body.pop("settings", script(answer))
    headers = body.pop("headers", {"prefer": "wait=10"})
    return await user.post(
        f"/threads/{thread}/turns",
        json={
            "trigger": "regenerate-message",
            "modelId": "scripted",
            "settings": settings,
            **body,
        },
        headers=headers,
    )


async def said(user: User, thread: str) -> list[tuple[str, str]]:
    messages = (await user.get(f"/threads/{thread}/messages")).json()["items"]
    return [(message["role"], message["content"]) for message in messages]


async def seen_by_a_model(app: Starlette, turn: dict[str, Any], user: User) -> list[str]:
    """The history that a turn of this thread would get."""
    database = app.state.database
    who = Principal(user.tenant_id, new_id(), new_id())
    row = await database.for_tenant(who).fetch_one(
        "get_turn_of_tenant", UUID(turn["id"]), user.tenant_id
    )
    rows = await database.fetch_many(
        "list_histories",
        [row["id"]], [user.tenant_id], [row["thread_id"]], [row["accept_seq"]], 100, 100_000,
    )  # fmt: skip
    return [found["content"] for found in rows]


async def test_the_last_answer_is_made_anew(
    app: Starlette, user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    first = await ask(user, thread, "one", "old one")
    second = await ask(user, thread, "two", "old two")
    answered = await redo(user, thread, messageId=second["outputMessageId"])
    assert answered.status_code == 200
    turn = answered.json()
    assert turn["inputMessageId"] == second["inputMessageId"]
    assert turn["settings"]["trigger"] == "regenerate-message"
    assert turn["outputMessageId"] != second["outputMessageId"]
    assert await said(user, thread) == [
        ("user", "one"), ("assistant", "old one"), ("user", "two"), ("assistant", "new"),
    ]  # fmt: skip
    assert await seen_by_a_model(app, turn, user) == ["one", "old one"]
    messages = (await user.get(f"/threads/{thread}/messages")).json()["items"]
    assert [message["turnId"] for message in messages] == [first["id"]] * 2 + [turn["id"]] * 2
    third = await ask(user, thread, "three", "old three")
    assert await seen_by_a_model(app, third, user) == ["one", "old one", "two", "new"]


async def test_the_old_turn_can_still_be_read(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    old = await ask(user, thread, "one", "old one")
    await redo(user, thread)
    assert (await user.get(f"/turns/{old['id']}")).json() == old
    events = await user.get(f"/turns/{old['id']}/events")
    assert b"old" in events.content


async def test_an_earlier_message_drops_what_follows(
    app: Starlette, user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    first = await ask(user, thread, "one", "old one")
    await ask(user, thread, "two", "old two")
    for message_id in (first["inputMessageId"], None):
        turn = (await redo(user, thread, messageId=message_id)).json()
        assert turn["inputMessageId"] == first["inputMessageId"]
        assert await said(user, thread) == [("user", "one"), ("assistant", "new")]
        assert await seen_by_a_model(app, turn, user) == []
    for gone in (first["outputMessageId"],):
        assert (await redo(user, thread, messageId=gone)).status_code == 404


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "fails at once": (script("new", failAfter=0), "failed"),
    "fails in the middle": (script("half of it", failAfter=1), "failed"),
    "cannot be run": ({"script": {"deltas": 1, "failAfter": 0, "failWith": "timeout"}}, "failed"),
}


@pytest.mark.parametrize("how", FAILURES)
async def test_a_failed_one_leaves_the_thread_as_it_was(
    app: Starlette, user: User, start_worker: StartWorker, how: str
) -> None:
    await start_worker()
    settings, status = FAILURES[how]
    thread = await user.thread()
    first = await ask(user, thread, "one", "old one")
    await ask(user, thread, "two", "old two")
    before = await user.get(f"/threads/{thread}/messages")
    turn = (await redo(user, thread, messageId=first["outputMessageId"], settings=settings)).json()
    assert turn["status"] == status
    assert (await user.get(f"/threads/{thread}/messages")).content == before.content
    shown = (await user.get(f"/threads/{thread}")).json()
    assert shown["lastMessagePreview"] == "old two"
    assert (shown["lastTurnId"], shown["lastTurnStatus"]) == (turn["id"], status)
    # And it can be tried again, from the same place.
    again = (await redo(user, thread, messageId=first["outputMessageId"])).json()
    assert again["status"] == "completed"
    assert await said(user, thread) == [("user", "one"), ("assistant", "new")]


async def test_one_that_is_cancelled_before_a_word_leaves_the_thread_as_it_was(user: User) -> None:
    thread = await user.thread()
    first = await user.submit(thread, message="one")
    await user.post(f"/turns/{first.json()['id']}/cancel", json={"partialText": "old"})
    assert await said(user, thread) == [("user", "one"), ("assistant", "old")]
    turn = (await redo(user, thread, headers={})).json()
    assert turn["status"] == "pending"
    assert await said(user, thread) == [("user", "one")]
    assert (await user.get(f"/threads/{thread}")).json()["lastMessagePreview"] == "one"
    await user.post(f"/threads/{thread}/turns/cancel")
    assert await said(user, thread) == [("user", "one"), ("assistant", "old")]
    assert (await user.get(f"/threads/{thread}")).json()["lastMessagePreview"] == "old"
    # What its reader saw of it may come a little later, and then it is the answer after all.
    await user.post(f"/threads/{thread}/turns/cancel", json={"partialText": "late"})
    assert await said(user, thread) == [("user", "one"), ("assistant", "late")]
    assert (await user.get(f"/threads/{thread}")).json()["lastMessagePreview"] == "late"


async def test_what_comes_late_of_an_answer_that_was_replaced_is_not_shown(
    app: Starlette, user: User
) -> None:
    """A cancel keeps the text that was logged after its commit: an answer may stand there then."""
    thread = await user.thread()
    first = (await user.submit(thread, message="one")).json()
    await user.post(f"/turns/{first['id']}/cancel")
    assert (await redo(user, thread, headers={})).status_code == 202
    who = Principal(user.tenant_id, new_id(), new_id())
    row = await app.state.database.for_tenant(who).fetch_one(
        "get_turn_of_tenant", UUID(first["id"]), user.tenant_id
    )
    await app.state.cancels._ends.put_partial_text(turn_from_row(row), "late")
    assert await said(user, thread) == [("user", "one")]
    assert (await user.get(f"/threads/{thread}")).json()["lastMessagePreview"] == "one"


async def test_one_that_is_stopped_in_mid_answer_keeps_what_it_said(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    await ask(user, thread, "one", "old one")
    turn = (await redo(user, thread, headers={}, settings=script("half of it", hangAfter=1))).json()

    async def is_running() -> bool:
        return bool((await user.get(f"/turns/{turn['id']}")).json()["status"] == "running")

    await wait_until(is_running, "it runs")
    await user.post(f"/threads/{thread}/turns/cancel", json={"partialText": "half "})
    assert await said(user, thread) == [("user", "one"), ("assistant", "half ")]


async def test_a_message_without_an_answer_is_answered(
    user: User, start_worker: StartWorker
) -> None:
    thread = await user.thread()
    first = (await user.submit(thread, message="one")).json()
    await user.post(f"/turns/{first['id']}/cancel")
    await start_worker()
    turn = (await redo(user, thread)).json()
    assert turn["inputMessageId"] == first["inputMessageId"]
    assert await said(user, thread) == [("user", "one"), ("assistant", "new")]


async def test_a_busy_thread_refuses(user: User) -> None:
    """A second click is one of these: not two answers."""
    thread = await user.thread()
    first = (await user.submit(thread, message="one")).json()
    refused = await redo(user, thread, headers={})
    assert (refused.status_code, refused.json()["turnId"]) == (409, first["id"])
    await user.post(f"/turns/{first['id']}/cancel", json={"partialText": "old"})
    answers: list[httpx.Response] = []

    async def click() -> None:
        answers.append(await redo(user, thread, headers={}, messageId=first["outputMessageId"]))

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(click())
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 4
    streamed = await user.post(
        f"/threads/{thread}/turns/stream", json={"trigger": "regenerate-message"}
    )
    assert streamed.status_code == 409
    assert streamed.headers["content-type"] == "application/json"


async def test_turns_queue_behind(app: Starlette, user: User, start_worker: StartWorker) -> None:
    worker = await start_worker()
    thread = await user.thread()
    await ask(user, thread, "one", "old one")
    await worker.drain()
    again = (await redo(user, thread, headers={})).json()
    behind = (await user.submit(thread, message="two", settings=script("a two"))).json()
    await start_worker()
    ended = await user.get(f"/turns/{behind['id']}", headers={"prefer": "wait=10"})
    assert ended.json()["status"] == "completed"
    assert await seen_by_a_model(app, behind, user) == ["one", "new"]
    assert (await user.get(f"/turns/{again['id']}")).json()["status"] == "completed"


async def test_the_same_request_twice_is_one_turn(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    old = await ask(user, thread, "one", "old one")
    headers = {"idempotency-key": "k", "prefer": "wait=10"}
    first = await redo(user, thread, headers=headers, messageId=old["outputMessageId"])
    again = await redo(user, thread, headers=headers, messageId=old["outputMessageId"])
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    other = await redo(user, thread, headers=headers)
    assert other.status_code == 422
    submitted = await user.submit(thread, idempotencyKey="k")
    assert submitted.status_code == 422


async def test_what_cannot_be_made_anew(
    user: User, add_user: AddUser, start_worker: StartWorker
) -> None:
    await start_worker()
    empty, thread = await user.thread(), await user.thread()
    old = await ask(user, thread, "one", "old one")
    for where, message_id in [
        (empty, None),
        (empty, old["outputMessageId"]),
        (thread, str(new_id())),
        (thread, "an id of the client's"),
        (thread, old["id"]),
    ]:
        refused = await redo(user, where, messageId=message_id)
        assert (refused.status_code, refused.json()["detail"]) == (404, "Message not found")
    for stranger in (await add_user(), await add_user(user.tenant_id)):
        refused = await redo(stranger, thread, messageId=old["outputMessageId"])
        assert (refused.status_code, refused.json()["detail"]) == (404, "Thread not found")
        own = await stranger.thread()
        refused = await redo(stranger, own, messageId=old["outputMessageId"])
        assert (refused.status_code, refused.json()["detail"]) == (404, "Message not found")
    assert (await redo(user, thread, messageId=7)).status_code == 422
    assert await said(user, thread) == [("user", "one"), ("assistant", "old one")]


async def test_as_use_chat_sends_it(user: User, start_worker: StartWorker) -> None:
    """The message's own id is the idempotency key of the turn that first answered it."""
    await start_worker()
    thread = await user.thread()
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "one"}]}
    body = {"id": "chat", "messages": [message], "modelId": "scripted", "settings": script("a b")}
    url = f"/threads/{thread}/turns/stream"
    first = await user.post(url, json={**body, "trigger": "submit-message"})
    assert b'"type":"finish"' in first.content
    turn_id = first.headers["location"].rpartition("/")[2]
    old = (await user.get(f"/turns/{turn_id}")).json()
    again = await user.post(
        url,
        json={**body, "trigger": "regenerate-message", "messageId": old["outputMessageId"]},
    )
    assert "idempotency-replayed" not in again.headers
    assert again.headers["location"] != first.headers["location"]
    assert f'"inputMessageId":"{old["inputMessageId"]}"'.encode() in again.content
    assert again.content.endswith(b"data: [DONE]\n\n")
    assert await said(user, thread) == [("user", "one"), ("assistant", "a b")]
