"""Histories of turns that begin together, read in one query."""

from __future__ import annotations

from typing import Final

import asyncpg

from shared.errors import PostgresUnavailable
from shared.postgres.batches import Ask, Batches
from shared.postgres.pool import Database
from shared.turn.model import ClaimedTurn

MAX_BATCH: Final = 16
"""Few: histories are what is large in this database, and a batch is in memory as a whole."""
_LANES: Final = 2

_History = list[asyncpg.Record]


class Histories:
    """Reads what turns may see of their threads: at most so many messages and bytes of each."""

    def __init__(self, database: Database, *, max_messages: int, max_bytes: int) -> None:
        self._database = database
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._batches: Batches[_History] = Batches(
            database.start, self._send, most=MAX_BATCH, lanes=_LANES
        )

    async def read(self, turn: ClaimedTurn) -> list[asyncpg.Record]:
        """The newest messages of earlier turns, oldest first; no more once `max_bytes` are full.

        Raises:
            PostgresUnavailable: the batch failed, or waited too long.
        """
        return await self._batches.ask((turn.id, turn.tenant_id, turn.thread_id, turn.accept_seq))

    async def _send(self, batch: list[Ask[_History]]) -> None:
        wanted = [ask for ask in batch if not ask.future.done()]
        if not wanted:
            return
        try:
            rows = await self._database.fetch_many(
                "list_histories",
                *zip(*(ask.args for ask in wanted), strict=True),
                self._max_messages,
                self._max_bytes,
            )
        except (PostgresUnavailable, asyncpg.PostgresError) as error:
            for ask in wanted:
                ask.fail(error)
            return
        histories: dict[object, _History] = {ask.args[0]: [] for ask in wanted}
        for row in rows:
            histories[row["turn_id"]].append(row)
        for ask in wanted:
            ask.answer(histories[ask.args[0]])
