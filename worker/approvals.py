"""What a turn goes on from that was parked for approvals, and what becomes of the approved calls.

How it is parked: `worker/turn_commits.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Final

import asyncpg
import structlog

from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database
from shared.postgres.rows import approval_from_row
from shared.turn.events import ToolResult
from shared.turn.model import ClaimedTurn
from shared.turn.text import storable_json
from worker.engine.base import EngineEvent, EngineResult, EngineRun, Resumption
from worker.patience import insist

log = structlog.get_logger(__name__)

MOST_APPROVAL_ROUNDS: Final = 50
"""How often a turn may be parked: a model that asks again after each denial must end as well."""


async def read_resumption(database: Database, turn: ClaimedTurn) -> Resumption:
    """What a turn that was parked goes on from; waits for a Postgres that is away."""
    own, its = database.for_tenant(turn), (turn.tenant_id, turn.id)
    messages = await insist(lambda: own.fetch_many("list_output_messages", *its))
    rows = await insist(lambda: own.fetch_many("list_approvals", *its))
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
