"""What a thread shows of its last turn and message, on every way that a turn can go.

One table: a way, and what the thread shows at its end. `updatedAt` moves with every step that
changes what is shown, and `lastMessageAt` never goes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette

from shared.postgres.pool import Database
from tests.fixtures.system import RunningWorker, StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import User

HANGING = {"script": {"text": "half of it", "intervalMs": 0, "hangAfter": 1}}
ANSWERING = {"script": {"text": "an answer", "intervalMs": 0}}
FAILING = {"script": {"text": "half of it", "intervalMs": 0, "failAfter": 0}}
FAILING_LATE = {"script": {"text": "half of it", "intervalMs": 0, "failAfter": 1}}


@dataclass
class Stage:
    """Where a way is walked. `note` looks at the thread: what changed must have moved its time."""

    user: User
    database: Database
    admin: Any
    thread: str
    start_worker: StartWorker
    last: dict[str, Any]
    worker: RunningWorker | None = None

    async def note(self) -> dict[str, Any]:
        now: dict[str, Any] = (await self.user.get(f"/threads/{self.thread}")).json()
        changed = {name for name in now if now[name] != self.last[name]} - {"updatedAt"}
        assert not changed or now["updatedAt"] > self.last["updatedAt"], changed
        assert changed or now["updatedAt"] >= self.last["updatedAt"]
        assert (now["lastMessageAt"] or "") >= (self.last["lastMessageAt"] or "")
        self.last = now
        return now

    async def submit(self, message: str = "a question", **body: Any) -> str:
        answered = await self.user.submit(self.thread, message=message, **body)
        assert answered.status_code == 202, answered.text
        await self.note()
        return str(answered.json()["id"])

    async def redo(self, **body: Any) -> str:
        return await self.submit(trigger="regenerate-message", **body)

    async def work(self) -> None:
        self.worker = await self.start_worker(worker_concurrency=2)

    async def until(self, turn_id: str, status: str) -> None:
        async def is_so() -> bool:
            await self.note()
            turn = (await self.user.get(f"/turns/{turn_id}")).json()
            return bool(turn["status"] == status)

        await wait_until(is_so, f"the turn is {status}")

    async def cancel(self, text: str | None = None) -> None:
        url = f"/threads/{self.thread}/turns/cancel"
        assert (await self.user.post(url, json={"partialText": text})).status_code == 204
        await self.note()

    async def answered(self) -> str:
        """A first exchange, "a question" and "an answer", by a worker that goes on working."""
        await self.work()
        turn = await self.submit(settings=ANSWERING)
        await self.until(turn, "completed")
        return turn


Way = Callable[[Stage], Awaitable[str]]
"""Returns the id of the turn that is the last."""


async def accepted(stage: Stage) -> str:
    return await stage.submit()


async def queued_behind(stage: Stage) -> str:
    await stage.submit("first")
    return await stage.submit("second")


async def running(stage: Stage) -> str:
    await stage.work()
    turn = await stage.submit(settings=HANGING)
    await stage.until(turn, "running")
    return turn


async def completed(stage: Stage) -> str:
    return await stage.answered()


async def completed_with_one_behind(stage: Stage) -> str:
    first = await stage.submit("first", settings=ANSWERING)
    second = await stage.submit("second", settings=HANGING)
    await stage.work()
    await stage.until(first, "completed")
    await stage.until(second, "running")
    return second


async def failed(stage: Stage) -> str:
    await stage.work()
    turn = await stage.submit(settings=FAILING)
    await stage.until(turn, "failed")
    return turn


async def cancelled_while_waiting(stage: Stage) -> str:
    turn = await stage.submit()
    await stage.cancel()
    return turn


async def cancelled_with_a_text(stage: Stage) -> str:
    turn = await stage.submit()
    await stage.cancel("  what   I saw ")
    return turn


async def cancelled_and_a_text_later(stage: Stage) -> str:
    turn = await stage.submit()
    await stage.cancel()
    await stage.cancel("what I saw")
    return turn


async def cancelled_in_mid_answer(stage: Stage) -> str:
    turn = await running(stage)
    await stage.cancel()
    return turn


async def cancelled_in_mid_answer_with_a_text(stage: Stage) -> str:
    turn = await running(stage)
    await stage.cancel("what I saw")
    return turn


async def cancelled_by_force(stage: Stage) -> str:
    turn = await running(stage)
    assert stage.worker is not None
    await stage.worker.kill()
    await stage.cancel()
    return turn


async def cancelled_with_one_behind(stage: Stage) -> str:
    await running(stage)
    turn = await stage.submit("second", settings=HANGING)
    assert stage.worker is not None
    stage.worker.worker.drain()
    await stage.cancel("what I saw")
    return turn


async def expired(stage: Stage) -> str:
    turn = await stage.submit()
    await stage.admin.execute("update turns set expires_at = now() where id = $1", UUID(turn))
    assert len(await stage.database.fetch_many("expire_turns", 10)) == 1
    await stage.note()
    return turn


async def reaped_for_good(stage: Stage) -> str:
    turn = await running(stage)
    assert stage.worker is not None
    await stage.worker.kill()
    await stage.admin.execute("update turns set lease_until = now() - interval '1 s'")
    assert await stage.database.fetch_one("reap_turn", UUID(turn), 1, 1, []) is not None
    await stage.note()
    return turn


async def handed_back(stage: Stage) -> str:
    turn = await running(stage)
    assert stage.worker is not None
    await stage.worker.drain()
    await stage.until(turn, "pending")
    return turn


async def redone(stage: Stage) -> str:
    await stage.answered()
    turn = await stage.redo(settings={"script": {"text": "a better answer", "intervalMs": 0}})
    await stage.until(turn, "completed")
    return turn


async def redoing(stage: Stage) -> str:
    await stage.answered()
    turn = await stage.redo(settings=HANGING)
    await stage.until(turn, "running")
    return turn


async def redone_in_vain(stage: Stage) -> str:
    await stage.answered()
    turn = await stage.redo(settings=FAILING_LATE)
    await stage.until(turn, "failed")
    return turn


async def redone_in_vain_with_one_behind(stage: Stage) -> str:
    await stage.answered()
    assert stage.worker is not None
    await stage.worker.drain()
    redo = await stage.redo(settings=FAILING)
    behind = await stage.submit("second", settings=HANGING)
    await stage.work()
    await stage.until(redo, "failed")
    await stage.until(behind, "running")
    return behind


async def redo_expired(stage: Stage) -> str:
    await stage.answered()
    assert stage.worker is not None
    await stage.worker.drain()
    turn = await stage.redo()
    await stage.admin.execute("update turns set expires_at = now() where id = $1", UUID(turn))
    assert len(await stage.database.fetch_many("expire_turns", 10)) == 1
    await stage.note()
    return turn


async def redo_cancelled(stage: Stage) -> str:
    await redo_waits(stage)
    await stage.cancel()
    return str(stage.last["lastTurnId"])


async def redo_cancelled_with_a_text(stage: Stage) -> str:
    await redo_waits(stage)
    await stage.cancel("what I saw")
    return str(stage.last["lastTurnId"])


async def redo_waits(stage: Stage) -> None:
    await stage.answered()
    assert stage.worker is not None
    await stage.worker.drain()
    await stage.redo()


WAYS: list[tuple[Way, str, str]] = [
    (accepted, "pending", "a question"),
    (queued_behind, "pending", "second"),
    (running, "running", "a question"),
    (completed, "completed", "an answer"),
    (completed_with_one_behind, "running", "an answer"),
    (failed, "failed", "a question"),
    (cancelled_while_waiting, "cancelled", "a question"),
    (cancelled_with_a_text, "cancelled", "what I saw"),
    (cancelled_and_a_text_later, "cancelled", "what I saw"),
    (cancelled_in_mid_answer, "cancelled", "half"),
    (cancelled_in_mid_answer_with_a_text, "cancelled", "what I saw"),
    (cancelled_by_force, "cancelled", "half"),
    (cancelled_with_one_behind, "pending", "what I saw"),
    (expired, "expired", "a question"),
    (reaped_for_good, "failed", "a question"),
    (handed_back, "pending", "a question"),
    (redone, "completed", "a better answer"),
    (redoing, "running", "a question"),
    (redone_in_vain, "failed", "an answer"),
    (redone_in_vain_with_one_behind, "running", "second"),
    (redo_expired, "expired", "an answer"),
    (redo_cancelled, "cancelled", "an answer"),
    (redo_cancelled_with_a_text, "cancelled", "what I saw"),
]


@pytest.mark.parametrize(("way", "status", "preview"), WAYS, ids=[way[0].__name__ for way in WAYS])
async def test_a_thread_shows_where_it_stands(
    app: Starlette,
    user: User,
    admin: Any,
    start_worker: StartWorker,
    way: Way,
    status: str,
    preview: str,
) -> None:
    made = (await user.post("/threads")).json()
    assert (made["lastTurnId"], made["lastTurnStatus"], made["lastMessageAt"]) == (None,) * 3
    stage = Stage(user, app.state.database, admin, made["id"], start_worker, made)
    turn = await way(stage)
    shown = await stage.note()
    assert (await user.get("/threads")).json()["items"] == [shown]
    assert (await user.patch(f"/threads/{made['id']}", json={})).json() == shown
    assert (shown["lastTurnId"], shown["lastTurnStatus"]) == (turn, status)
    assert shown["lastMessagePreview"] == preview
    assert shown["title"] in {"a question", "first"}
    messages = (await user.get(f"/threads/{made['id']}/messages")).json()["items"]
    assert " ".join(messages[-1]["content"].split()) == preview
    assert messages[-1]["createdAt"] <= shown["lastMessageAt"] <= shown["updatedAt"]


async def test_a_title_is_never_overwritten(user: User) -> None:
    own = (await user.post("/threads", json={"title": "Mine"})).json()["id"]
    long = (await user.post("/threads")).json()["id"]
    empty = (await user.post("/threads", json={"title": ""})).json()["id"]
    for thread in (own, long, empty):
        await user.submit(thread, message="word " * 40)
        await user.submit(thread, message="another")
    titles = [(await user.get(f"/threads/{t}")).json()["title"] for t in (own, long, empty)]
    assert titles[::2] == ["Mine", ""]
    assert len(titles[1]) <= 80
    assert titles[1].startswith("word word")
    assert titles[1].endswith("…")
    await user.patch(f"/threads/{long}", json={"title": "Ours"})
    await user.submit(long, message="third")
    assert (await user.get(f"/threads/{long}")).json()["title"] == "Ours"


async def test_an_empty_patch_changes_nothing(user: User) -> None:
    thread = await user.thread()
    await user.submit(thread)
    before = await user.get(f"/threads/{thread}")
    assert (await user.patch(f"/threads/{thread}", json={})).content == before.content
    assert (await user.patch(f"/threads/{thread}")).content == before.content
    assert (await user.get(f"/threads/{thread}")).content == before.content
