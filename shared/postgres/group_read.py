"""Many reads of single turns in one query: while one batch is under way, the next one gathers."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg

from shared.errors import PostgresUnavailable
from shared.postgres.batches import Ask, Batches
from shared.postgres.pool import Database

MAX_BATCH: Final = 128
_LANES: Final = 2
"""Batches in flight at once: one is read while the other is being sent."""


class GroupRead:
    """Reads the versions of turns (`get_turn_versions`) for many callers at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches: Batches[asyncpg.Record | None] = Batches(
            database.start, self._send, most=MAX_BATCH, lanes=_LANES
        )

    async def get(self, turn_id: UUID, tenant_id: UUID, user_id: UUID) -> asyncpg.Record | None:
        """The turn's id, owner, attempt, status and `updated_at`, read after this call began.

        None: no such turn, somebody else's, or its thread is deleted.

        Raises:
            PostgresUnavailable: the batch failed, or waited too long.
            asyncpg.PostgresError: the query itself is no good.
        """
        return await self._batches.ask((turn_id, tenant_id, user_id))

    async def _send(self, batch: list[Ask[asyncpg.Record | None]]) -> None:
        # Dictionaries keep their order: the columns below belong together.
        wanted = dict.fromkeys(ask.args for ask in batch if not ask.future.done())
        if not wanted:
            return
        turn_ids, tenant_ids, user_ids = zip(*wanted, strict=True)
        try:
            rows = await self._database.fetch_many(
                "get_turn_versions", turn_ids, tenant_ids, user_ids
            )
        except (PostgresUnavailable, asyncpg.PostgresError) as error:
            for ask in batch:
                ask.fail(error)
        else:
            found = {(row["id"], row["tenant_id"], row["user_id"]): row for row in rows}
            for ask in batch:
                ask.answer(found.get(ask.args))
