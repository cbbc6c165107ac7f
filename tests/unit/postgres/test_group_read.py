"""Reads share batches, and nobody gets what was read before it asked."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from shared.errors import PostgresUnavailable
from shared.postgres.group_read import MAX_BATCH, GroupRead
from shared.postgres.pool import Database

TENANT, USER = uuid.UUID(int=1), uuid.UUID(int=2)


class GatedDatabase:
    """Answers each batch with its number, once it is let through."""

    start = staticmethod(asyncio.create_task)

    def __init__(self) -> None:
        self.batches: list[list[UUID]] = []
        self.gates: list[asyncio.Event] = []
        self.error: BaseException | None = None

    async def fetch_many(
        self, name: str, turn_ids: list[UUID], tenant_ids: list[UUID], user_ids: list[UUID]
    ) -> list[dict[str, Any]]:
        assert name == "get_turn_versions"
        number, gate = len(self.batches), asyncio.Event()
        self.batches.append(list(turn_ids))
        self.gates.append(gate)
        await gate.wait()
        if self.error:
            raise self.error
        rows = zip(turn_ids, tenant_ids, user_ids, strict=True)
        return [
            {"id": turn, "tenant_id": tenant, "user_id": user, "attempt": number}
            for turn, tenant, user in rows
            if turn.int < 1_000_000
        ]


@pytest.fixture
def database() -> GatedDatabase:
    return GatedDatabase()


@pytest.fixture
def reads(database: GatedDatabase) -> GroupRead:
    return GroupRead(cast("Database", database))


def ask(reads: GroupRead, number: int, user: UUID = USER) -> asyncio.Task[Any]:
    return asyncio.create_task(reads.get(UUID(int=number), TENANT, user))


async def turn_over() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_of_one_tick_share_a_query_and_the_same_turn_is_read_once(
    reads: GroupRead, database: GatedDatabase
) -> None:
    tasks = [ask(reads, number % 10) for number in range(30)]
    tasks += [ask(reads, 3, UUID(int=99)), ask(reads, 1_000_000)]
    await turn_over()
    assert [len(batch) for batch in database.batches] == [12]
    database.gates[0].set()
    rows = [await task for task in tasks]
    assert [row["id"].int for row in rows[:30]] == [number % 10 for number in range(30)]
    assert (rows[30]["user_id"], rows[31]) == (UUID(int=99), None)


async def test_who_asks_during_a_read_gets_a_later_one(
    reads: GroupRead, database: GatedDatabase
) -> None:
    early = ask(reads, 1)
    await turn_over()
    late = ask(reads, 1)
    await turn_over()
    latest = [ask(reads, 1), ask(reads, 2)]
    await turn_over()
    assert len(database.batches) == 2, "two batches are in flight at most"
    database.gates[0].set()
    assert (await early)["attempt"] == 0
    await turn_over()
    assert [batch[0].int for batch in database.batches] == [1, 1, 1]
    for gate in database.gates:
        gate.set()
    assert (await late)["attempt"] == 1
    assert [(await task)["attempt"] for task in latest] == [2, 2]


async def test_no_batch_is_larger_than_its_bound(reads: GroupRead, database: GatedDatabase) -> None:
    tasks = [ask(reads, number) for number in range(MAX_BATCH * 3)]
    while not all(task.done() for task in tasks):
        await turn_over()
        for gate in database.gates:
            gate.set()
    assert [len(batch) for batch in database.batches] == [MAX_BATCH] * 3


@pytest.mark.parametrize("error", [PostgresUnavailable("away"), asyncpg.QueryCanceledError("slow")])
async def test_an_error_is_told_to_all_of_the_batch_and_to_no_other(
    reads: GroupRead, database: GatedDatabase, error: BaseException
) -> None:
    doomed = [ask(reads, number) for number in range(3)]
    await turn_over()
    database.error = error
    database.gates[0].set()
    for task in doomed:
        with pytest.raises(type(error)):
            await task
    database.error = None
    lucky = ask(reads, 1)
    await turn_over()
    database.gates[1].set()
    assert (await lucky)["attempt"] == 1


async def test_a_cancelled_caller_harms_nobody(reads: GroupRead, database: GatedDatabase) -> None:
    gone, stays = ask(reads, 1), ask(reads, 1)
    await turn_over()
    gone.cancel()
    await turn_over()
    database.gates[0].set()
    assert (await stays)["id"].int == 1
    assert gone.cancelled()
    early = ask(reads, 2)
    await asyncio.sleep(0)  # it has asked; its batch has not been sent
    early.cancel()
    await turn_over()
    assert len(database.batches) == 1, "what nobody waits for is not read"
