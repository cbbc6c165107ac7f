"""Many small writes in one commit: while one batch is being committed, the next one gathers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg

from shared.errors import PostgresBusy, PostgresUnavailable
from shared.postgres import batches
from shared.postgres.batches import Ask, Batches, as_elements, columns
from shared.postgres.pool import Database

MAX_BATCH: Final = 64
_LANES: Final = 2
"""Batches in flight at once: one commits while the other is being sent."""

_Run = Ask[asyncpg.Record | None]


class GroupCommit:
    """Runs one named query for many callers: it takes an array per argument.

    Its rows have an `id` = the first argument. A caller gets its row, or None when its run changed
    nothing. When one run of a batch breaks a constraint, or meets a lock that is held too long, the
    batch is undone and its runs are repeated one by one: each caller gets its own outcome.
    """

    def __init__(self, database: Database, query: str) -> None:
        self._database = database
        self._query = query
        self._batches: Batches[asyncpg.Record | None] = Batches(
            database.start, self._send, most=MAX_BATCH, lanes=_LANES
        )

    def waiting_s(self) -> float:
        """How long the run has waited that is first in the next batch; 0 when none waits."""
        return self._batches.waiting_s()

    async def run(self, *args: Any) -> asyncpg.Record | None:
        """The row of this run, once its batch is committed. A cancelled caller undoes nothing.

        Raises:
            PostgresUnavailable: the outcome of the commit is unknown, or it did not happen, or the
                run waited too long for its batch.
            asyncpg.PostgresError: this run broke a constraint.
        """
        return await self._batches.ask(as_elements(args))

    async def _send(self, batch: list[_Run]) -> None:
        try:
            rows = await self._fetch(batch)
        except (asyncpg.PostgresError, PostgresBusy) as error:
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                await self._send_one_by_one(batch)
        except PostgresUnavailable as error:
            for ask in batch:
                ask.fail(error)
        else:
            found = {row["id"]: row for row in rows}
            for ask in batch:
                ask.answer(found.get(ask.args[0]))

    async def _send_one_by_one(self, batch: list[_Run]) -> None:
        loop = asyncio.get_running_loop()
        for index, ask in enumerate(batch):
            if loop.time() - ask.asked_at > batches.MAX_WAIT_S:  # the locks of others took its time
                ask.fail(PostgresBusy("The question was not sent: others wait for locks"))
                continue
            try:
                rows = await self._fetch([ask])
            except (asyncpg.PostgresError, PostgresBusy) as error:
                ask.fail(error)
            except PostgresUnavailable as error:
                for rest in batch[index:]:
                    rest.fail(error)
                return
            else:
                ask.answer(rows[0] if rows else None)

    async def _fetch(self, batch: list[_Run]) -> list[asyncpg.Record]:
        return await self._database.fetch_many(self._query, *columns([ask.args for ask in batch]))
