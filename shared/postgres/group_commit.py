"""Many small writes in one commit: while one batch is being committed, the next one gathers."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.errors import PostgresUnavailable
from shared.postgres.batches import Ask, Batches
from shared.postgres.pool import Database

MAX_BATCH: Final = 64
_LANES: Final = 2
"""Batches in flight at once: one commits while the other is being sent."""


class GroupCommit:
    """Runs one named query for many callers. Its rows have an `id` = the first argument.

    A caller gets its row, or None when its run changed nothing. When one run of a batch breaks a
    constraint, the batch is undone and its runs are repeated one by one: each caller gets its own
    outcome.
    """

    def __init__(self, database: Database, query: str) -> None:
        self._database = database
        self._query = query
        self._batches = Batches(self._send, most=MAX_BATCH, lanes=_LANES)

    async def run(self, *args: Any, contended: UUID) -> asyncpg.Record | None:
        """The row of this run, once its batch is committed.

        A cancelled caller does not undo its write. `contended` is the thread, the one row that runs
        of different batches write: all batches lock threads in the same order, so none deadlocks.

        Raises:
            PostgresUnavailable: the outcome of the commit is unknown, or it did not happen, or the
                run waited too long for its batch.
            asyncpg.PostgresError: this run broke a constraint.
        """
        return await self._batches.ask((contended, *args))

    async def _send(self, batch: list[Ask]) -> None:
        batch = sorted(batch, key=lambda ask: ask.args[0])  # stable: a thread's runs keep order
        try:
            rows = await self._database.fetch_each(self._query, [ask.args[1:] for ask in batch])
        except asyncpg.PostgresError:
            await self._send_one_by_one(batch)
        except PostgresUnavailable as error:
            for ask in batch:
                ask.fail(error)
        else:
            found = {row["id"]: row for row in rows}
            for ask in batch:
                ask.answer(found.get(ask.args[1]))

    async def _send_one_by_one(self, batch: list[Ask]) -> None:
        for index, ask in enumerate(batch):
            try:
                row = await self._database.fetch_one(self._query, *ask.args[1:])
            except asyncpg.PostgresError as error:
                ask.fail(error)
            except PostgresUnavailable as error:
                for rest in batch[index:]:
                    rest.fail(error)
                return
            else:
                ask.answer(row)
