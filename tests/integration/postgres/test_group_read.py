"""Versions of turns, read for many callers in one query."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.ids import new_id
from shared.postgres.group_read import GroupRead
from shared.postgres.pool import Database
from shared.turn.model import Principal
from tests.fixtures.system import MakeTurn, add_principal, add_thread
from tests.integration.postgres.desk import Desk


async def test_everybody_sees_their_own_turns_and_no_others(
    database: Database, make_turn: MakeTurn, principal: Principal, admin: Any
) -> None:
    desk, reads = Desk(database), GroupRead(database)
    turns = [make_turn(key=str(number)) for number in range(20)]
    stranger = await add_principal(admin)
    hidden = make_turn(thread=await add_thread(admin, principal))
    for new in (*turns, hidden):
        await desk.accept(new)
    await admin.execute("update threads set deleted_at = now() where id = $1", hidden.thread_id)
    await desk.claim(turns[0].id)
    mine = (principal.tenant_id, principal.user_id)
    asked = [
        *((new.id, *mine) for new in turns),
        (hidden.id, *mine),
        (new_id(), *mine),
        (turns[0].id, stranger.tenant_id, stranger.user_id),
        (turns[0].id, principal.tenant_id, stranger.user_id),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(reads.get(*who)) for who in asked]
    rows: list[Any] = [task.result() for task in tasks]
    assert [row["id"] for row in rows[:20]] == [new.id for new in turns]
    assert rows[20:] == [None] * 4
    assert (rows[0]["status"], rows[0]["attempt"]) == ("running", 1)
    assert (rows[1]["status"], rows[1]["attempt"]) == ("pending", 0)
    stored = await desk.row(turns[0].id, principal.tenant_id)
    assert rows[0]["updated_at"] == stored["updated_at"]


async def test_a_read_sees_what_was_committed_before_it(
    database: Database, make_turn: MakeTurn, principal: Principal
) -> None:
    desk, reads = Desk(database), GroupRead(database)
    new = make_turn()
    await desk.accept(new)
    seen = []
    for change in (desk.claim(new.id), desk.end(new, 1)):
        await change
        row = await reads.get(new.id, principal.tenant_id, principal.user_id)
        assert row is not None
        seen.append(row["status"])
    assert seen == ["running", "completed"]
