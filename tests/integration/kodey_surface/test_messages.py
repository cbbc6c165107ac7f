"""A message is answered once, by the agent, however its request fares."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from api.app import begin_drain
from shared.service import turns as turns_module
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.kodey_surface.conftest import PRIMARY, Client, Member


async def turns_of(admin: Any, chat_id: str) -> list[Any]:
    rows: list[Any] = await admin.fetch(
        "select id, status::text from turns where thread_id = $1 order by accept_seq", UUID(chat_id)
    )
    return rows


async def accepted(admin: Any, chat_id: str, count: int = 1) -> None:
    async def look() -> bool:
        return len(await turns_of(admin, chat_id)) == count

    await wait_until(look, f"{count} turns were accepted")


async def ended(admin: Any, chat_id: str, count: int) -> None:
    """Without asking the surface, which would tell."""
    over = "select count(*) from turns where thread_id = $1 and status = 'completed'"

    async def look() -> bool:
        return bool(await admin.fetchval(over, UUID(chat_id)) == count)

    await wait_until(look, f"{count} turns have ended")


async def test_it_is_answered_and_both_are_kept(
    member: Member, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker()
    chat_id = await member.secret.chat(userId="u")
    first = await member.secret.say(chat_id, "Hello  there")
    second = await member.secret.say(chat_id, "And again")
    assert (first.status_code, second.status_code) == (200, 200)
    assert await member.secret.said(chat_id) == [
        ("user", "Hello  there"),
        ("assistant", first.json()["content"]),
        ("user", "And again"),
        ("assistant", second.json()["content"]),
    ]
    # The same words once more are another message: the first was answered.
    third = await member.secret.say(chat_id, "And again")
    assert third.json()["id"] != second.json()["id"]
    thread = (await member.primary.get(f"{PRIMARY}/threads/{chat_id}")).json()
    assert thread["title"] == "Hello there"
    assert thread["lastTurnStatus"] == "completed"
    assert thread["lastTurnId"] == str((await turns_of(admin, chat_id))[-1]["id"])
    assert third.json()["content"].startswith(thread["lastMessagePreview"].removesuffix("…"))
    assert thread["lastMessageAt"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "content"),
        ({"content": ""}, "content"),
        ({"content": " \n\t"}, "content"),
        ({"content": None}, "content"),
        ({"content": 1}, "content"),
        ({"content": "x" * 200_001}, "content"),
        ({"content": "x", "role": "assistant"}, "role"),
        ({"content": "x", "role": "system"}, "role"),
        ({"content": "x", "role": None}, "role"),
        ([], ""),
    ],
)
async def test_what_is_no_message_is_refused(
    member: Member, admin: Any, body: Any, place: str
) -> None:
    chat_id = await member.secret.chat()
    answered = await member.secret.post(f"/chat/{chat_id}/message", json=body)
    assert answered.status_code == 400
    assert answered.json()["error"] == "Bad Request"
    assert answered.json()["message"].startswith(place)
    assert await turns_of(admin, chat_id) == []


async def test_fields_that_nobody_knows_are_ignored(
    member: Member, start_worker: StartWorker
) -> None:
    await start_worker()
    made = await member.secret.post("/chat", json={"agentId": "default", "status": "x", "usage": 1})
    body = {"content": "x", "createdAt": "x", "tenantId": "x", "status": 1}
    answered = await member.secret.post(f"/chat/{made.json()['id']}/message", json=body)
    assert answered.status_code == 200


async def test_an_idempotency_key_makes_one_message_of_many(
    member: Member, start_worker: StartWorker, admin: Any
) -> None:
    await start_worker()
    chat_id = await member.secret.chat()
    first = await member.secret.say(chat_id, "x", idempotency_key="k")
    again = await member.secret.say(chat_id, "x", idempotency_key='"k"')
    assert again.json() == first.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = await member.secret.say(chat_id, "y", idempotency_key="k")
    assert (other.status_code, other.json()["error"]) == (400, "Bad Request")
    assert len(await turns_of(admin, chat_id)) == 1
    elsewhere = await member.secret.say(await member.secret.chat(), "x", idempotency_key="k")
    assert elsewhere.json()["id"] != first.json()["id"]
    for wrong in ("", "x" * 256, "\t"):
        refused = await member.secret.say(chat_id, "x", idempotency_key=wrong)
        assert refused.status_code == 400, wrong


async def test_sent_again_while_it_is_answered_it_is_the_same_message(
    app: Starlette, member: Member, start_worker: StartWorker, admin: Any
) -> None:
    chat_id = await member.secret.chat()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(member.secret.say(chat_id, "x"))]
        await accepted(admin, chat_id)
        asked += [group.create_task(member.secret.say(chat_id, "x")) for _ in range(3)]
        await wait_until(lambda: app.state.admission.polls.open == 4, "all of them wait")
        await start_worker()
    answers = {task.result().json()["id"] for task in asked}
    assert len(answers) == 1
    assert len(await member.secret.said(chat_id)) == 2


async def test_sent_twice_at_one_moment_it_is_one_message(
    member: Member, start_worker: StartWorker
) -> None:
    chat_id = await member.secret.chat()
    await start_worker()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(member.secret.say(chat_id, "x")) for _ in range(4)]
    assert {task.result().status_code for task in asked} == {200}
    assert len(await member.secret.said(chat_id)) == 2


async def test_different_messages_of_one_chat_are_answered_one_after_the_other(
    member: Member, start_worker: StartWorker
) -> None:
    chat_id = await member.secret.chat()
    await start_worker()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(member.secret.say(chat_id, f"m{n}")) for n in range(5)]
    assert {task.result().status_code for task in asked} == {200}
    said = await member.secret.said(chat_id)
    assert sorted(text for role, text in said if role == "user") == [f"m{n}" for n in range(5)]
    ids = [task.result().json()["id"] for task in asked]
    listed = (await member.secret.get(f"/chat/{chat_id}/message")).json()["messages"]
    assert {m["id"] for m in listed if m["role"] == "assistant"} == set(ids)


# -- when there is no answer, or not in time


class TestInTime:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"kodey_wait_s": 0.6, "kodey_busy_wait_s": 0.3}

    async def test_what_takes_too_long_goes_on_and_is_found_again(
        self, member: Member, start_worker: StartWorker, admin: Any
    ) -> None:
        chat_id = await member.secret.chat()
        late = await member.secret.say(chat_id, "x")
        assert late.status_code == 504
        assert late.json()["error"] == "Gateway Timeout"
        assert "Send the same message again" in late.json()["message"]
        assert int(late.headers["retry-after"]) >= 1
        assert await member.secret.said(chat_id) == [("user", "x")]
        again = asyncio.create_task(member.secret.say(chat_id, "x"))
        await start_worker()
        answered = await again
        if answered.status_code == 504:  # a slow machine
            answered = await member.secret.say(chat_id, "x")
        assert answered.status_code == 200
        assert answered.headers["idempotency-replayed"] == "true"
        assert len(await turns_of(admin, chat_id)) == 1
        assert len(await member.secret.said(chat_id)) == 2

    async def test_an_answer_that_nobody_was_told_waits_for_the_same_question(
        self, member: Member, start_worker: StartWorker, admin: Any
    ) -> None:
        """However late: told to try again, most clients do when it has long been answered."""
        chat_id = await member.secret.chat()
        assert (await member.secret.say(chat_id, "a")).status_code == 504
        assert (await member.secret.say(chat_id, "b")).status_code == 429
        await start_worker()
        await ended(admin, chat_id, 2)
        elsewhere = await member.secret.say(await member.secret.chat(), "b")
        assert "idempotency-replayed" not in elsewhere.headers
        told = await member.secret.say(chat_id, "b")
        assert (told.status_code, told.headers["idempotency-replayed"]) == (200, "true")
        assert len(await turns_of(admin, chat_id)) == 2
        for number in (3, 4):
            told = await member.secret.say(chat_id, "b")
            assert told.status_code == 200
            assert "idempotency-replayed" not in told.headers, "the same words are a new message"
            assert len(await turns_of(admin, chat_id)) == number

    @pytest.mark.parametrize("how", ["by the list", "behind another", "on the primary surface"])
    async def test_a_question_that_is_over_is_asked_anew(
        self, member: Member, start_worker: StartWorker, admin: Any, how: str
    ) -> None:
        chat_id = await member.secret.chat()
        if how == "on the primary surface":
            asked = {"message": "a", "modelId": "scripted"}
            await member.primary.post(f"{PRIMARY}/threads/{chat_id}/turns", json=asked)
        else:
            assert (await member.secret.say(chat_id, "a")).status_code == 504
        await start_worker()
        await ended(admin, chat_id, 1)
        if how == "by the list":
            assert len(await member.secret.said(chat_id)) == 2
        if how == "behind another":
            assert (await member.secret.say(chat_id, "b")).status_code == 200
        before = len(await turns_of(admin, chat_id))
        anew = await member.secret.say(chat_id, "a")
        assert "idempotency-replayed" not in anew.headers
        assert len(await turns_of(admin, chat_id)) == before + 1

    async def test_behind_a_message_that_is_still_answered_it_is_429(
        self, member: Member, admin: Any, start_worker: StartWorker
    ) -> None:
        chat_id = await member.secret.chat()
        first = asyncio.create_task(member.secret.say(chat_id, "a"))
        await accepted(admin, chat_id)
        second = await member.secret.say(chat_id, "b")
        assert (await first).status_code == 504
        assert second.status_code == 429
        body = second.json()
        assert body["error"] == "Too Many Requests"
        assert body["message"].startswith("The chat is still answering an earlier message")
        assert body["retryAfter"] == int(second.headers["retry-after"])
        assert await member.secret.said(chat_id) == [("user", "a"), ("user", "b")]
        await start_worker()

        async def whole() -> bool:
            return len(await member.secret.said(chat_id)) == 4

        await wait_until(whole, "both were answered")


async def test_nothing_waits_for_a_process_that_goes_down(
    app: Starlette, member: Member, admin: Any, start_worker: StartWorker
) -> None:
    chat_id = await member.secret.chat()
    asked = asyncio.create_task(member.secret.say(chat_id, "x"))
    await accepted(admin, chat_id)
    begin_drain(app)  # type: ignore[arg-type]  # it is ours
    async with asyncio.timeout(20):
        answered = await asked
    assert (answered.status_code, answered.json()["error"]) == (503, "Service Unavailable")
    assert "Send the same message again" in answered.json()["message"]
    assert answered.headers["retry-after"]
    await start_worker()

    async def whole() -> bool:
        return len(await member.secret.said(chat_id)) == 2

    await wait_until(whole, "the turn went on")


async def test_who_leaves_leaves_the_turn(
    member: Member, admin: Any, start_worker: StartWorker
) -> None:
    chat_id = await member.secret.chat()
    asked = asyncio.create_task(member.secret.say(chat_id, "x"))
    await accepted(admin, chat_id)
    asked.cancel()
    await asyncio.wait([asked])
    await start_worker()

    async def whole() -> bool:
        return len(await member.secret.said(chat_id)) == 2

    await wait_until(whole, "the turn went on")


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "END_POLL_S", 0.05)


async def end_by(
    member: Member, admin: Any, chat_id: str, statement: str, client: Client | None = None
) -> httpx.Response:
    """The answer to a message whose turn this statement changes."""
    asked = asyncio.create_task((client or member.secret).say(chat_id, "x"))
    await accepted(admin, chat_id)
    await admin.execute(statement, UUID(chat_id))
    return await asked


FAIL = (
    "update turns set status = 'failed', error_code = 'model_error', error_message = 'no key',"
    " ended_at = now(), updated_at = now() where thread_id = $1"
)
PARK = (
    "update turns set status = 'awaiting_approval', parked_count = 1, slot = 1, attempt = 1,"
    " started_at = now(), updated_at = now() where thread_id = $1"
)
EXPIRE = (
    "update turns set status = 'expired', ended_at = now(), updated_at = now(),"
    " error_code = 'queue_ttl', error_message = 'x' where thread_id = $1"
)


@pytest.mark.usefixtures("quick_looks")
async def test_a_model_that_fails_is_500(member: Member, admin: Any) -> None:
    chat_id = await member.secret.chat()
    failed = await end_by(member, admin, chat_id, FAIL)
    assert (failed.status_code, failed.json()) == (
        500,
        {"error": "Internal Server Error", "message": "no key"},
    )
    assert await member.secret.said(chat_id) == [("user", "x")]
    chat_id = await member.publishable.chat()
    failed = await end_by(member, admin, chat_id, FAIL, member.publishable)
    assert failed.json()["message"] == "The agent could not answer", "a browser is told no more"


@pytest.mark.usefixtures("quick_looks")
async def test_an_answer_that_is_cancelled_is_409(member: Member, admin: Any) -> None:
    chat_id = await member.secret.chat()
    asked = asyncio.create_task(member.secret.say(chat_id, "x"))
    await accepted(admin, chat_id)
    await member.primary.post(f"{PRIMARY}/threads/{chat_id}/turns/cancel")
    cancelled = await asked
    assert (cancelled.status_code, cancelled.json()) == (
        409,
        {"error": "Conflict", "message": "The answer was cancelled"},
    )


@pytest.mark.usefixtures("quick_looks")
async def test_a_turn_that_waits_for_an_approval_is_409_at_once(member: Member, admin: Any) -> None:
    chat_id = await member.secret.chat()
    for _ in range(2):  # the second finds it so
        async with asyncio.timeout(10):
            parked = await end_by(member, admin, chat_id, PARK)
        assert (parked.status_code, parked.json()["error"]) == (409, "Conflict")
        assert "approve" in parked.json()["message"]
    assert len(await turns_of(admin, chat_id)) == 1


@pytest.mark.usefixtures("quick_looks")
async def test_a_turn_that_nobody_began_in_time_is_504(member: Member, admin: Any) -> None:
    chat_id = await member.secret.chat()
    expired = await end_by(member, admin, chat_id, EXPIRE)
    assert (expired.status_code, expired.json()["error"]) == (504, "Gateway Timeout")
    assert "has no answer" in expired.json()["message"]


async def test_a_chat_that_is_deleted_meanwhile_is_gone(member: Member, admin: Any) -> None:
    chat_id = await member.secret.chat()
    asked = asyncio.create_task(member.secret.say(chat_id, "x"))
    await accepted(admin, chat_id)
    assert (await member.secret.delete(f"/chat/{chat_id}")).status_code == 204
    assert (await asked).status_code in {404, 409}  # by whether the cancel was seen first
    assert (await member.secret.get(f"/chat/{chat_id}")).status_code == 404


async def test_a_key_that_is_revoked_meanwhile_gets_nothing(
    member: Member, admin: Any, start_worker: StartWorker
) -> None:
    chat_id = await member.secret.chat()
    asked = asyncio.create_task(member.secret.say(chat_id, "x"))
    await accepted(admin, chat_id)
    await admin.execute("update api_keys set revoked_at = now()")
    await start_worker()
    assert (await asked).status_code == 401


async def test_too_many_that_wait_are_refused_before_anything_is_written(
    open_app: Callable[..., Awaitable[Starlette]], add_member: Any, admin: Any
) -> None:
    app = await open_app(max_polls=1)
    member: Member = await add_member(app=app)
    chat_id = await member.secret.chat()
    asked = asyncio.create_task(member.secret.say(chat_id, "x"))
    await accepted(admin, chat_id)
    other = await member.secret.chat()
    refused = await member.secret.say(other, "y")
    assert (refused.status_code, refused.json()["error"]) == (503, "Service Unavailable")
    assert await turns_of(admin, other) == []
    asked.cancel()
    await asyncio.wait([asked])


async def test_only_what_user_and_agent_say_is_shown(member: Member, admin: Any) -> None:
    chat_id = await member.secret.chat()
    for role, content in (
        ("system", "s"), ("user", "u"), ("assistant", ""), ("tool", "t"), ("assistant", "a"),
    ):  # fmt: skip
        await admin.execute(
            "insert into messages (id, tenant_id, thread_id, role, content, format)"
            " values (gen_random_uuid(), $1, $2, $3, $4, 'text')",
            member.tenant_id, UUID(chat_id), role, content,
        )  # fmt: skip
    assert await member.secret.said(chat_id) == [("user", "u"), ("assistant", "a")]
    got = (await member.secret.get(f"/chat/{chat_id}")).json()["messages"]
    assert [m["content"] for m in got] == ["u", "a"]
