"""Runs by the official types: `RunAgentInput` is sent, every event is one of the protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from ag_ui.core import PROTOCOL_VERSION, Event, EventType, RunAgentInput, UserMessage
from pydantic import TypeAdapter
from starlette.applications import Starlette

from shared.errors import QueueFull
from shared.ids import new_id
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import AddUser, User

AGUI = "http://test/api/v1/agui"
EVENT: TypeAdapter[Any] = TypeAdapter(Event)
PAY = {"name": "pay", "args": {"euros": 5}, "result": "paid"}


def run_input(thread: str = "t", run: str = "r", said: str = "x", **more: Any) -> dict[str, Any]:
    """A run as an official client sends it; `script` is what the model does."""
    script = {"intervalMs": 0, "text": "ok", **more.pop("script", {})}
    message = UserMessage(id="m", content=said)
    sent = RunAgentInput(
        thread_id=thread,
        run_id=run,
        protocol_version=PROTOCOL_VERSION,
        messages=[message],
        forwarded_props={"modelId": "scripted", "settings": {"script": script}},
        **{"tools": [], "context": [], "state": {}, **more},
    )
    body: dict[str, Any] = sent.model_dump(mode="json", by_alias=True)
    return body


async def run(user: httpx.AsyncClient, **wanted: Any) -> list[Any]:
    """The events of a run."""
    answered = await user.post(AGUI, json=run_input(**wanted))
    assert answered.status_code == 200, answered.text
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = [b for b in answered.content.split(b"\n\n") if b.startswith(b"data: ")]
    events = [EVENT.validate_json(block.removeprefix(b"data: ")) for block in blocks]
    assert all(not event.model_extra for event in events)
    return events


def text_of(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type is EventType.TEXT_MESSAGE_CONTENT)


def kinds(events: list[Any]) -> list[str]:
    return [event.type.value for event in events]


async def messages(user: User) -> list[str]:
    """All texts of the user's only thread."""
    (thread,) = (await user.get("/threads")).json()["items"]
    told = (await user.get(f"/threads/{thread['id']}/messages")).json()["items"]
    return [message["content"] for message in told]


async def test_a_run_and_the_next_on_a_thread_of_the_clients_own_name(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    events = await run(user, thread="my chat", said="one", script={"reasoning": "hm"})
    assert kinds(events)[0] == "RUN_STARTED"
    assert (events[0].thread_id, events[0].run_id) == ("my chat", "r")
    assert kinds(events)[-1] == "RUN_FINISHED"
    assert events[-1].outcome.type == "success"
    assert text_of(events) == "ok"
    assert "REASONING_MESSAGE_CONTENT" in kinds(events)
    again = await run(user, thread="my chat", run="r2", said="two", script={"text": "again"})
    assert text_of(again) == "again"
    assert await messages(user) == ["one", "ok", "two", "again"]


async def test_a_run_that_is_sent_again_is_watched_and_not_run_twice(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    first = await run(user, said="one")
    again = await run(user, said="one")
    assert again == first
    assert await messages(user) == ["one", "ok"]
    answered = await user.post(AGUI, json=run_input(said="another"))
    assert answered.status_code == 422
    (item,) = answered.json()["detail"]
    assert (item["type"], item["loc"]) == ("idempotency_key_reused", ["body", "runId"])


async def test_members_that_a_frontend_adds_are_passed_over(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    answered = await user.post(AGUI, json=run_input() | {"userId": "u-17", "status": "x"})
    assert answered.status_code == 200, answered.text


async def test_names_are_each_users_own(
    user: User, add_user: AddUser, start_worker: StartWorker
) -> None:
    await start_worker()
    colleague = await add_user(user.tenant_id)
    thread = await user.thread()
    for name in ("shared name", thread):
        await run(user, thread=name, said="mine")
        await run(colleague, thread=name, said="theirs")
    for who, said in ((user, "mine"), (colleague, "theirs")):
        threads = (await who.get("/threads")).json()["items"]
        assert len(threads) == 2
        for one in threads:
            told = (await who.get(f"/threads/{one['id']}/messages")).json()["items"]
            assert [message["content"] for message in told] == [said, "ok"]
    assert thread in {one["id"] for one in (await user.get("/threads")).json()["items"]}


async def test_a_deleted_threads_name_is_gone_with_it(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    await run(user)
    (thread,) = (await user.get("/threads")).json()["items"]
    await user.delete(f"/threads/{thread['id']}")
    answered = await user.post(AGUI, json=run_input(run="r2"))
    assert (answered.status_code, answered.json()["detail"]) == (404, "Thread not found")


async def test_interrupts(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    script = {"text": "Done.", "approval": {"text": "May I? ", "calls": [PAY]}}
    asked = await run(user, script=script)
    (interrupt,) = asked[-1].outcome.interrupts
    assert interrupt.reason == "tool_call"
    started = next(e for e in asked if e.type is EventType.TOOL_CALL_START)
    assert started.tool_call_id == interrupt.tool_call_id == interrupt.id
    refused = await user.post(AGUI, json=run_input(run="r2"))
    assert refused.status_code == 409, "what is open must be decided first"
    wrong = {"interruptId": interrupt.id, "status": "resolved", "payload": {"approved": "yes"}}
    answered = await user.post(AGUI, json=run_input(run="r3", resume=[wrong]))
    assert answered.status_code == 422
    assert answered.json()["detail"][0]["loc"] == ["body", "resume", 0, "payload", "approved"]
    decided = wrong | {"payload": {"approved": True}}
    rest = await run(user, run="r4", resume=[decided])
    assert rest[0].run_id == "r4"
    assert kinds(rest)[1] == "TOOL_CALL_RESULT"
    assert rest[1].content == "paid"
    assert text_of(rest) == "Done."
    assert rest[-1].outcome.type == "success"
    assert kinds(await run(user, run="r4", resume=[decided]))[1:] == kinds(rest)[1:]
    whole = await run(user, script=script)
    assert text_of(whole) == "May I? Done.", "the first run, watched again, goes to the end"
    other = wrong | {"payload": {"approved": False}}
    assert (await user.post(AGUI, json=run_input(run="r5", resume=[other]))).status_code == 409


async def test_an_interrupt_that_is_left_is_denied(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    asked = await run(user, script={"approval": {"calls": [PAY]}})
    left = {"interruptId": asked[-1].outcome.interrupts[0].id, "status": "cancelled"}
    rest = await run(user, run="r2", resume=[left])
    result = next(e for e in rest if e.type is EventType.TOOL_CALL_RESULT)
    assert result.content == '{"error":"Denied"}'
    unknown = {"interruptId": "x", "status": "cancelled"}
    answered = await user.post(AGUI, json=run_input(run="r3", resume=[unknown]))
    assert answered.status_code == 422


async def test_a_failure_is_an_error_of_the_run(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    events = await run(user, script={"text": "a b c", "failAfter": 1})
    assert kinds(events)[-1] == "RUN_ERROR"
    assert events[-1].code == "model_error"


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"threadId": ""}, ["body", "threadId"]),
        ({"runId": "é"}, ["body", "runId"]),
        ({"messages": []}, ["body", "messages"]),
        ({"messages": [{"id": "a", "role": "assistant", "content": "x"}]}, ["body", "messages"]),
        ({"messages": [{"id": "a", "role": "user", "content": " "}]},
         ["body", "messages", 0, "content"]),
        ({"messages": [{"id": "a", "role": "user", "content": [{"type": "image"}]}]},
         ["body", "messages", 0, "content", 0]),
        ({"forwardedProps": {"modelId": "gpt-99"}}, ["body", "forwardedProps", "modelId"]),
        ({"forwardedProps": {"modelId": "scripted", "settings": {"script": {"deltas": -1}}}},
         ["body", "forwardedProps", "settings", "script", "deltas"]),
        ({"forwardedProps": {"settings": 1}}, ["body", "forwardedProps", "settings"]),
    ],
    ids=str,
)  # fmt: skip
async def test_wrong_values(user: User, change: dict[str, Any], loc: list[Any]) -> None:
    answered = await user.post(AGUI, json=run_input() | change)
    assert answered.status_code == 422
    assert answered.json()["detail"][0]["loc"] == loc
    assert (await user.get("/threads")).json()["items"] == []


LONG = [{"description": "The page", "value": "x" * 32_768}]
LEFT = [{"interruptId": "x", "status": "cancelled"}]


@pytest.mark.parametrize(
    ("more", "status"),
    [({"context": LONG}, 422), ({"resume": LEFT}, 404)],
    ids=["context", "resume"],
)
async def test_what_is_refused_makes_no_thread(
    user: User, more: dict[str, Any], status: int
) -> None:
    answered = await user.post(AGUI, json=run_input(**more))
    assert answered.status_code == status, answered.text
    assert (await user.get("/threads")).json()["items"] == []


async def test_what_the_queue_refuses_makes_no_thread(
    user: User, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = QueueFull("full", reason="x", retry_after_s=1)
    monkeypatch.setattr(app.state.turns._backlog, "find_refusal", lambda *_: refusal)
    assert (await user.post(AGUI, json=run_input())).status_code == 429
    assert (await user.get("/threads")).json()["items"] == []


async def test_first_runs_that_come_at_once_share_a_thread(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    async with asyncio.TaskGroup() as group:
        for name in ("a", "a", "a", "b"):
            group.create_task(run(user, run=name, said=name))
    assert sorted(await messages(user)) == ["a", "b", "ok", "ok"]


async def test_a_deleted_threads_run_is_gone_however_it_is_sent_again(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    await run(user)
    (thread,) = (await user.get("/threads")).json()["items"]
    await user.delete(f"/threads/{thread['id']}")
    for body in (run_input(), run_input(said="y"), run_input(run="r2", resume=LEFT)):
        answered = await user.post(AGUI, json=body)
        assert (answered.status_code, answered.json()["detail"]) == (404, "Thread not found")


async def test_context_reaches_the_model_as_instructions(user: User, admin: Any) -> None:
    more = [{"description": "The page", "value": "/orders"}]
    body = run_input(context=more, thread=str(new_id()))
    # Without a worker the stream would not end: the answer is not waited for.
    answered = await user.post("/threads")
    body["threadId"] = answered.json()["id"]
    turn = await submit_unread(user, body)
    told = await admin.fetchval("select system_prompt from turns where id = $1", turn)
    assert told == "Context of the application:\n- The page: /orders"


async def submit_unread(user: User, body: dict[str, Any]) -> Any:
    """Sends a run, cancels its turn once it is there, and returns the turn's id."""

    async def find() -> Any:
        listed = (await user.get("/turns")).json()["items"]
        return listed[0]["id"] if listed else None

    async with asyncio.TaskGroup() as group:
        sent = group.create_task(user.post(AGUI, json=body))
        turn_id = await wait_until(find, "the turn is there")
        await user.post(f"/turns/{turn_id}/cancel")
    assert b'"type":"cancelled"' in sent.result().content
    return turn_id
