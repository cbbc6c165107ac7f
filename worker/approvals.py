"""What a worker does about approvals: goes on from where a turn was parked, and parks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any, Final

import asyncpg
import structlog

from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database
from shared.postgres.rows import approval_from_row
from shared.turn.events import ToolResult
from shared.turn.model import ClaimedTurn
from shared.turn.text import storable_json
from worker.engine.base import EngineEvent, EngineResult, EngineRun, Resumption

log = structlog.get_logger(__name__)

RETRY_PAUSE_S: Final = 0.5
MOST_APPROVAL_ROUNDS: Final = 50
"""How often a turn may be parked: a model that asks again after each denial must end as well."""


async def read_resumption(database: Database, turn: ClaimedTurn) -> Resumption:
    """What a turn that was parked goes on from; waits for a Postgres that is away."""
    own = database.for_tenant(turn)
    while True:
        try:
            messages = await own.fetch_many("list_output_messages", turn.tenant_id, turn.id)
            rows = await own.fetch_many("list_approvals", turn.tenant_id, turn.id)
        except PostgresUnavailable:
            await asyncio.sleep(RETRY_PAUSE_S)
            continue
        approvals = [approval_from_row(row) for row in rows]
        return Resumption(
            round=turn.parked_count,
            messages=[row["raw_data"] for row in messages],
            approvals=[a for a in approvals if a.round == turn.parked_count],
            spent=_spent(turn),
        )


def _spent(turn: ClaimedTurn) -> Decimal:
    usage = turn.earlier_usage
    return Decimal() if usage is None else Decimal(usage.total_cost or 0)


class RecordedRun:
    """A run whose approved calls are noted with what they gave, before anything else is said.

    A later attempt then gets the result, and does not make the call again. What a worker had begun
    and not noted when it died is made again.
    """

    def __init__(
        self, run: EngineRun, database: Database, turn: ClaimedTurn, resumption: Resumption
    ) -> None:
        self._run = run
        self._database = database
        self._turn = turn
        self._owed = {
            a.tool_call_id
            for a in resumption.approvals
            if a.decision is not None and a.decision.approved and a.outcome is None
        }

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        events = self._run.events()
        try:
            async for event in events:
                if isinstance(event, ToolResult) and event.tool_call_id in self._owed:
                    self._owed.discard(event.tool_call_id)
                    await self._record(event)
                yield event
        finally:
            await events.aclose()

    def result(self) -> EngineResult:
        return self._run.result()

    async def _record(self, event: ToolResult) -> None:
        turn = self._turn
        outcome = {"error": event.error} if event.error is not None else {"result": event.result}
        try:
            await self._database.fetch_one(
                "record_outcome",
                turn.id,
                turn.tenant_id,
                turn.attempt,
                event.tool_call_id,
                storable_json(outcome),
            )
        except (PostgresUnavailable, asyncpg.PostgresError) as error:
            # The turn goes on: only should this worker be lost as well is the call made again.
            log.warning("turn.outcome_unrecorded", turn_id=str(turn.id), error=str(error))


def park_arguments(
    turn: ClaimedTurn,
    result: EngineResult,
    messages: list[dict[str, Any]],
    last_seq: int,
    preview: str | None,
    ttl_s: float,
) -> tuple[Any, ...]:
    """Arguments of `park_turn`; `messages` are rows as `end_turns` takes them."""
    calls = [
        {
            "tool_call_id": call.tool_call_id,
            "tool_name": call.name,
            "args": storable_json(call.args),
        }
        for call in result.asked
    ]
    return (
        turn.id,
        turn.tenant_id,
        turn.attempt,
        result.usage.model_dump(by_alias=True),
        last_seq,
        messages,
        preview,
        calls,
        ttl_s,
        turn.thread_id,
    )
