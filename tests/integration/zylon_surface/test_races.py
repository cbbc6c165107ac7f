"""What comes at once, too often or too late: nothing is asked twice, nothing stays for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from shared.postgres.batches import as_elements, columns
from shared.postgres.transaction import Transaction
from shared.service.accept import accept_arguments
from shared.service.transient_threads import TransientThreads
from shared.turn.model import Principal
from tests.fixtures.system import MakeTurn, RunningWorker, StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.zylon_surface.conftest import Member, bare, user_says


async def test_a_chat_is_not_removed_under_the_turn_that_is_just_accepted(
    app: Starlette, principal: Principal, make_turn: MakeTurn, admin: Any
) -> None:
    """Whose accept nobody could wait for: its commit comes when the removal has begun."""
    threads, thread_id = TransientThreads(app.state.database), new_id()
    await threads.create(principal, thread_id)
    new = make_turn("Hello", thread=thread_id)
    removal: asyncio.Task[None] | None = None

    async def accept_slowly(transaction: Transaction) -> None:
        nonlocal removal
        arguments = accept_arguments(new, 100.0)
        await transaction.fetch_one("accept_turns", *columns([as_elements(arguments)]))
        removal = asyncio.create_task(threads.remove(thread_id))

        async def waits() -> bool:
            return bool(
                await admin.fetchval(
                    "select true from pg_stat_activity"
                    " where wait_event_type = 'Lock' and query like '%is_transient%'"
                    " and datname = current_database()"
                )
            )

        await wait_until(waits, "the removal waits for the thread")

    await app.state.database.run_in_transaction(accept_slowly)
    assert removal is not None
    await removal
    row = await admin.fetchrow("select deleted_at from threads where id = $1", thread_id)
    assert row["deleted_at"] is None
    assert await admin.fetchval("select count(*) from messages where superseded_at is null") == 1


async def test_a_chat_is_refused_before_it_is_asked_where_too_many_wait(
    member: Member, app: Starlette, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last seat is taken while the chat is being accepted."""
    monkeypatch.setattr(app.state.admission.polls, "_most", 1)
    asked = [
        asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))
        for _ in range(4)
    ]
    first = await _ended(asked, 3)
    assert [answer.status_code for answer in first] == [503] * 3

    async def waits() -> bool:
        return bool(await admin.fetchval("select count(*) from turns"))

    await wait_until(waits, "the fourth was accepted")
    assert await admin.fetchval("select count(*) from turns") == 1
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)


async def _ended(tasks: list[asyncio.Task[Any]], count: int) -> list[Any]:
    async def are_over() -> bool:
        return sum(task.done() for task in tasks) >= count

    await wait_until(are_over, f"{count} were answered")
    return [task.result() for task in tasks if task.done()]


async def test_a_chat_that_a_leaving_process_gives_up_is_cancelled(
    member: Member, app: Starlette, admin: Any
) -> None:
    """Nobody could ask for its answer later on, and who sends it again asks again."""
    asking = asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))

    async def waits() -> bool:
        return bool(await admin.fetchval("select count(*) from turns"))

    await wait_until(waits, "the chat was accepted")
    app.state.draining = True
    app.state.hub.drain()
    assert (await asking).status_code == 503
    assert await admin.fetchval("select status::text from turns") == "cancelled"
    assert await admin.fetchval("select count(*) from messages") == 0


async def test_an_interaction_that_is_sent_again_is_the_same(
    member: Member, add_member: Any, worker: RunningWorker, admin: Any
) -> None:
    """At one moment, and after its answer was lost on the way."""
    thread = await member.thread(visibility="Public")
    path = f"/thread/{thread}/interaction"
    said = [{"role": "assistant", "content": "So far."}, user_says("Hello")]
    body: dict[str, Any] = {"pgpt": {"messages": said, "max_tokens": 50}}
    key = {"idempotency-key": "k"}
    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(member.post(path, json=body, headers=key)) for _ in range(4)]
    answers = [post.result() for post in posts]
    assert [answer.status_code for answer in answers] == [201] * 4
    answers.append(await member.post(path, json=body, headers={"idempotency-key": '"k"'}))
    assert all(answer.json() == answers[0].json() for answer in answers)
    replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None] + ["true"] * 4
    body["pgpt"] |= {"stream": True, "priority": 5}  # neither changes what is answered
    assert (await member.post(path, json=body, headers=key)).json() == answers[0].json()
    assert await admin.fetchval("select count(*) from turns") == 1
    body["pgpt"]["max_tokens"] = 51
    reused = await member.post(path, json=body, headers=key)
    assert (reused.status_code, reused.json()["error"]["type"]) == (400, "invalid_request_error")
    colleague = await add_member(member)
    other = await colleague.post(path, json=body, headers=key)
    assert other.status_code == 201
    assert other.json()["id"] != answers[0].json()["id"]


@pytest.mark.parametrize("is_running", [False, True])
async def test_one_of_many_cancels_stops_an_interaction(
    member: Member,
    start_worker: StartWorker,
    app: Starlette,
    monkeypatch: pytest.MonkeyPatch,
    is_running: bool,
) -> None:
    """All have seen it active before the first one stops it."""
    if is_running:
        await start_worker()
    interaction = await member.scripted(await member.thread(), deltas=1, hangAfter=1)
    turn = f"/turns/{bare(interaction)}"

    async def waits() -> bool:
        expected = "running" if is_running else "pending"
        return bool((await member.chat.get(turn)).json()["status"] == expected)

    await wait_until(waits, "the turn is where it is wanted")
    all_have_seen = asyncio.Barrier(3)
    find = app.state.interactions.find

    async def find_with_others(*asked: Any) -> Any:
        found = await find(*asked)
        await all_have_seen.wait()
        return found

    monkeypatch.setattr(app.state.interactions, "find", find_with_others)
    monkeypatch.setattr(app.state.cancels, "_wait_s", 8.0)
    path = f"/interaction/{interaction}/cancel"
    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(member.post(path)) for _ in range(3)]
    assert sorted(post.result().status_code for post in posts) == [204, 409, 409]


async def test_a_cancel_that_was_not_heard_of_is_asked_for_again(
    member: Member, start_worker: StartWorker, admin: Any
) -> None:
    """Whoever asked first waited, was told nothing, and left."""
    await start_worker()
    interaction = await member.scripted(await member.thread(), deltas=1, hangAfter=1)

    async def runs() -> bool:
        return bool(await admin.fetchval("select status = 'running' from turns"))

    await wait_until(runs, "it runs")
    asked_at = "update turns set cancel_requested_at = now() - interval '1 minute'"
    await admin.execute(asked_at)
    path = f"/interaction/{interaction}/cancel"
    assert (await member.post(path)).status_code == 204
    assert (await member.post(path)).status_code == 409


async def test_deleting_all_threads_leaves_a_chat_that_runs(member: Member, admin: Any) -> None:
    """It is in no list of the user's, so it is none of those they mean."""
    asking = asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))

    async def waits() -> bool:
        return bool(await admin.fetchval("select count(*) from turns"))

    await wait_until(waits, "the chat was accepted")
    bulk = await member.chat.post("/threads/bulk-delete", json={"all": True})
    assert bulk.json() == {"deletedCount": 0}
    assert await admin.fetchval("select status::text from turns") == "pending"
    asking.cancel()
    await asyncio.wait([asking])


async def test_an_interaction_that_is_regenerated_is_told_what_it_brought_along(
    member: Member, worker: RunningWorker
) -> None:
    """On the primary surface, which knows nothing of such messages."""
    thread = await member.thread()
    said = [user_says("one two"), {"role": "assistant", "content": "three"}, user_says("four")]
    made = await member.asked(thread, pgpt={"messages": said})
    assert made["assistant_output"]["usage"]["input_tokens"] == 4
    body = {"trigger": "regenerate-message", "messages": [], "modelId": "scripted"}
    await member.chat.post(f"/threads/{bare(thread)}/turns/stream", json=body)
    (turn, _) = (await member.chat.get(f"/turns?threadId={bare(thread)}")).json()["items"]
    assert (turn["status"], turn["usage"]["inputTokens"]) == ("completed", 4)
