"""Batches under way are few: who waits behind them is refused in time, never forgotten."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import asyncpg
import pytest

from shared.errors import PostgresBusy, PostgresUnavailable
from shared.postgres import batches, group_commit
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database


class SlowDatabase:
    start = staticmethod(asyncio.create_task)

    def __init__(self, answer_s: float) -> None:
        self.answer_s = answer_s
        self.sent = 0

    async def fetch_many(self, name: str, ids: list[int]) -> list[dict[str, Any]]:
        self.sent += len(ids)
        await asyncio.sleep(self.answer_s)
        return [{"id": id_} for id_ in ids]


async def outcomes(database: SlowDatabase, count: int) -> list[bool]:
    """Whether each of `count` runs, asked for at once, was carried out."""
    commits = GroupCommit(cast("Database", database), "accept_turns")

    async def run(number: int) -> bool:
        try:
            row = await commits.run(number)
        except PostgresUnavailable:
            return False
        assert row is not None
        assert row["id"] == number
        return True

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(number)) for number in range(count)]
    return [task.result() for task in tasks]


async def test_everybody_behind_a_postgres_that_keeps_up_is_served() -> None:
    database = SlowDatabase(0.001)
    assert await outcomes(database, 1000) == [True] * 1000


async def test_who_waits_too_long_is_refused_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    class LateDatabase(SlowDatabase):
        async def fetch_many(self, name: str, ids: list[int]) -> list[dict[str, Any]]:
            monkeypatch.setattr(batches, "MAX_WAIT_S", -1.0)  # so much time has passed by now
            return await super().fetch_many(name, ids)

    database = LateDatabase(0.05)
    served = await outcomes(database, 1000)
    assert served == [True] * database.sent + [False] * (1000 - database.sent)
    assert 0 < database.sent <= 4 * group_commit.MAX_BATCH


class BrokenDatabase:
    start = staticmethod(asyncio.create_task)
    calls = 0

    async def fetch_many(self, name: str, ids: list[int]) -> list[dict[str, Any]]:
        if len(ids) > 1:
            raise asyncpg.UniqueViolationError
        self.calls += 1
        if self.calls == 2:
            raise PostgresUnavailable
        return [{"id": id_} for id_ in ids]


async def test_nobody_waits_for_postgres_once_per_run_of_a_broken_batch() -> None:
    database = BrokenDatabase()
    assert await outcomes(cast("SlowDatabase", database), 20) == [True] + [False] * 19
    assert database.calls == 2


class LockedDatabase:
    """What it is asked about an id below `locked` waits for a lock, in vain."""

    start = staticmethod(asyncio.create_task)

    def __init__(self, locked: int) -> None:
        self.locked = locked
        self.calls = 0

    async def fetch_many(self, name: str, ids: list[int]) -> list[dict[str, Any]]:
        self.calls += 1
        if min(ids) < self.locked:
            await asyncio.sleep(0.02)
            raise PostgresBusy
        return [{"id": id_} for id_ in ids]


async def test_only_who_needs_the_locked_row_is_refused() -> None:
    database = LockedDatabase(1)
    assert await outcomes(cast("SlowDatabase", database), 20) == [False] + [True] * 19


async def test_who_waited_too_long_for_the_locks_of_others_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "MAX_WAIT_S", 0.2)
    database = LockedDatabase(60)
    assert await outcomes(cast("SlowDatabase", database), 60) == [False] * 60
    assert database.calls < 20
