"""What is owed for a turn that ended without a worker: its end in Redis, its partial text."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from shared.errors import RedisUnavailable
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.postgres.transaction import Transaction
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.redis.event_log import EventLog
from shared.turn.events import Cursor, MessageDelta, TurnStarted, decode_event, encode_event
from shared.turn.messages import interrupted_response, preview
from shared.turn.model import Turn
from shared.turn.replay import ended_event

log = structlog.get_logger(__name__)

PUBLISH_TIMEOUT_S: Final = 1.0
"""How long a turn's end waits for a Redis that hangs."""


class TurnEnds:
    """For cancels, takeovers and expiries, each of which has ended the turn in Postgres first."""

    def __init__(self, *, database: Database, dispatch: Dispatch, event_log: EventLog) -> None:
        self._database = database
        self._dispatch = dispatch
        self._event_log = event_log

    async def publish(self, turn: Turn) -> None:
        """Tells Redis of a turn that ended without its worker: closes its log, frees its slot.

        Losing this loses nothing: readers ask Postgres, and the sweeper restores the line.
        """
        payload = encode_event(ended_event(turn))
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                generation = await self._dispatch.read_generation()
                if generation is not None:
                    await self._event_log.open(
                        turn.id, turn.attempt, generation, [payload], final=True
                    )
                await self._dispatch.settle(LineChange.of_ended(turn))
        except (RedisUnavailable, RedisReplyError, TimeoutError) as error:
            log.warning("turn.end_unpublished", turn_id=str(turn.id), error=str(error))

    async def read_partial_text(self, turn: Turn, attempt: int) -> str:
        """The text that `attempt` has logged; what of it can be read, where Redis fails."""
        parts: list[str] = []
        retold = 0
        try:
            async for batch in self._event_log.read_all(turn.id, Cursor(attempt, 0)):
                if batch.attempt != attempt:
                    continue
                for event in map(decode_event, batch.payloads):
                    if retold:
                        retold -= 1  # stored when the turn was parked
                    elif isinstance(event, MessageDelta):
                        parts.append(event.text)
                    elif isinstance(event, TurnStarted):
                        retold = event.retold or 0
        except (RedisUnavailable, RedisReplyError):
            log.warning("turn.partial_text_unread", turn_id=str(turn.id))
        return "".join(parts)

    async def keep_partial_text(self, turn: Turn, attempt: int) -> Turn:
        """Gives a turn that was cancelled without its worker the text that `attempt` has logged."""
        text = await self.read_partial_text(turn, attempt)
        if not text:
            return turn
        await self.put_partial_text(turn, text)
        row = await self._database.for_tenant(turn).fetch_one(
            "get_turn_of_tenant", turn.id, turn.tenant_id
        )
        return turn if row is None else turn_from_row(row)

    async def put_partial_text(self, turn: Turn, text: str) -> None:
        """Gives a cancelled turn this text, in place of any that its last attempt has said.

        Left alone: turns that ended otherwise, and those in whose place another answers.
        """
        has_text = turn.output_message_id == turn.planned_output_message_id

        async def put(transaction: Transaction) -> None:
            # Who regenerates the answer locks the thread first, as well.
            await transaction.fetch_one("lock_thread", turn.thread_id, turn.tenant_id, turn.user_id)
            await transaction.fetch_one(
                "replace_partial_text" if has_text else "add_partial_text",
                turn.tenant_id,
                turn.id,
                text,
                interrupted_response(text, turn.model_id),
                preview(text),
            )

        await self._database.for_tenant(turn).run_in_transaction(put)
