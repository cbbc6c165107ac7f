"""Who locks what first: whoever waits for a thread holds nothing that its holder may want.

Each test keeps the first lock of a statement, lets the statement wait for it, and sees that the
rows it goes to afterwards are still free: no timing decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.service.ends import TurnEnds
from shared.service.regenerate import accept_regenerated
from shared.turn.model import ConflictPolicy, NewTurn, Principal, Redo
from tests.fixtures.system import MakeTurn, add_thread
from tests.fixtures.waiting import wait_until
from tests.integration.postgres.desk import Desk

LOCK_THREAD = "select from threads where id = $1 for update"


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


@pytest.fixture
async def rival(database_url: str) -> AsyncIterator[Any]:
    """A transaction under way on a connection of its own."""
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        yield connection
    await connection.close()


async def run_beside(
    rival: Any, admin: Any, work: Awaitable[Any], wanted: tuple[str, UUID]
) -> tuple[bool, Any]:
    """Lets `work` wait for the rival's lock; whether the row `wanted` is free, and its result."""
    table, row_id = wanted
    ours = asyncio.ensure_future(work)
    await wait_until(lambda: is_waiting(admin), "we wait for the rival")
    try:
        await rival.execute("savepoint s")
        await rival.execute(f"select from {table} where id = $1 for update nowait", row_id)
    except asyncpg.LockNotAvailableError:
        await rival.execute("rollback to s")
        is_free = False
    else:
        is_free = True
    await rival.execute("commit; begin")
    return is_free, await ours


async def is_waiting(admin: Any) -> bool:
    waiting: bool = await admin.fetchval("select exists (select from pg_locks where not granted)")
    return waiting


async def two_regenerating(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any
) -> list[UUID]:
    """Threads by id, each with a turn that regenerates and is due, the last one for longest."""
    threads = sorted([await add_thread(admin, principal) for _ in range(2)])
    for age_s, thread in enumerate(threads, 1):
        new = make_turn(thread=thread)
        await desk.accept(new)
        await admin.execute(
            "update turns set replaced_turn_id = $2, expires_at = now() - make_interval(secs => $3)"
            " where id = $1",
            new.id, new_id(), age_s,
        )  # fmt: skip
    return threads


async def test_an_expiry_locks_the_threads_of_its_turns_by_id(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any, rival: Any
) -> None:
    first, second = await two_regenerating(desk, make_turn, principal, admin)
    await rival.execute(LOCK_THREAD, first)
    work = desk.database.fetch_many("expire_turns", 100)
    is_free, rows = await run_beside(rival, admin, work, ("threads", second))
    assert is_free
    assert [row["status"] for row in rows] == ["expired"] * 2


async def test_an_expiry_of_approvals_locks_the_threads_of_its_turns_by_id(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any, rival: Any
) -> None:
    first, second = await two_regenerating(desk, make_turn, principal, admin)
    await admin.execute("update turns set status = 'awaiting_approval', slot = 1, parked_count = 1")
    await rival.execute(LOCK_THREAD, first)
    work = desk.database.fetch_many("cancel_expired_approvals", 100, "nobody decided")
    is_free, rows = await run_beside(rival, admin, work, ("threads", second))
    assert is_free
    assert [row["status"] for row in rows] == ["cancelled"] * 2


async def answered(desk: Desk, new: NewTurn) -> None:
    """The turn, completed."""
    await desk.accept(new)
    row = await desk.claim(new.id)
    assert await desk.end(new, row["attempt"], text="said") is not None


async def test_a_text_that_is_put_in_place_waits_for_its_thread_first(
    desk: Desk, make_turn: MakeTurn, admin: Any, rival: Any
) -> None:
    new = make_turn()
    await desk.accept(new)
    row = await desk.claim(new.id)
    await desk.request_cancel(new)
    turn = turn_from_row(await desk.force_cancel(new, row["attempt"], "the server's"))
    unused: Any = None
    ends = TurnEnds(database=desk.database, dispatch=unused, event_log=unused)
    await rival.execute(LOCK_THREAD, new.thread_id)
    answer = new.planned_output_message_id
    work = ends.put_partial_text(turn, "mine")
    is_free, _ = await run_beside(rival, admin, work, ("messages", answer))
    assert is_free
    said = await admin.fetchval("select content from messages where id = $1", answer)
    shown = await admin.fetchval("select last_message_preview from threads")
    assert (said, shown) == ("mine", "mine")


async def test_a_regeneration_waits_for_its_key_before_it_locks_its_thread(
    desk: Desk, make_turn: MakeTurn, principal: Principal, admin: Any, rival: Any
) -> None:
    await answered(desk, make_turn())
    new = replace(make_turn(policy=ConflictPolicy.REJECT), redo=Redo(None))
    await rival.execute(
        "select pg_advisory_xact_lock(hashtextextended($1::uuid::text || ':' || $2, 0))",
        principal.tenant_id,
        new.concurrency_key,
    )
    work = accept_regenerated(desk.database, new, 100.0)
    is_free, row = await run_beside(rival, admin, work, ("threads", new.thread_id))
    assert is_free
    assert row["id"] == new.id


async def test_detaching_waits_for_the_thread_before_it_locks_the_attachment(
    database: Database, principal: Principal, thread: UUID, admin: Any, rival: Any
) -> None:
    artifact, attachment = new_id(), new_id()
    await admin.execute(
        "insert into artifacts (id, tenant_id, kind, mime_type, size_bytes, inline_text)"
        " values ($1, $2, 'text', 'text/plain', 1, 'x')",
        artifact, principal.tenant_id,
    )  # fmt: skip
    await admin.execute(
        "insert into attachments (id, tenant_id, thread_id, artifact_id) values ($1, $2, $3, $4)",
        attachment, principal.tenant_id, thread, artifact,
    )  # fmt: skip
    await admin.execute("update threads set attachment_count = 1")
    await rival.execute(LOCK_THREAD, thread)
    work = database.for_tenant(principal).fetch_one(
        "delete_attachment", attachment, principal.tenant_id, principal.user_id
    )
    is_free, row = await run_beside(rival, admin, work, ("attachments", attachment))
    assert is_free
    assert row["id"] == attachment
    assert await admin.fetchval("select attachment_count from threads") == 0
