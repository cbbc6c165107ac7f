"""A person's decisions on tool calls: read, checked and written, then the turn waits again."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog

from shared.errors import ApprovalConflict, TurnNotFound
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.postgres.rows import approval_from_row, turn_from_row
from shared.postgres.transaction import Transaction
from shared.service.turns import TurnService
from shared.turn.approval import Decision, find_new_decisions
from shared.turn.model import Principal, Turn

log = structlog.get_logger(__name__)


class ApprovalService:
    """Raises the errors of `shared.errors`."""

    def __init__(self, database: Database, turns: TurnService, metrics: Metrics) -> None:
        self._database = database
        self._turns = turns
        self._metrics = metrics

    async def decide(
        self, principal: Principal, turn_id: UUID, decisions: Sequence[Decision]
    ) -> Turn:
        """Decides on all open calls of a parked turn, which goes on then.

        The same decisions again change nothing and return the turn as it is by then.

        Raises:
            TurnNotFound: unknown, deleted or somebody else's.
            InvalidRequest: an open call is not named, or one that was never asked is.
            ApprovalConflict: decided otherwise before, or nothing is to be decided.
        """

        async def decide(transaction: Transaction) -> Turn | None:
            tenant_id = principal.tenant_id
            row = await transaction.fetch_one("lock_turn", turn_id, tenant_id, principal.user_id)
            if row is None:
                raise TurnNotFound
            rows = await transaction.fetch_many("list_approvals", tenant_id, turn_id)
            approvals = [approval_from_row(row) for row in rows]
            new = find_new_decisions(str(turn_id), approvals, decisions)
            if not new:
                return None
            resumed = await transaction.fetch_one("resume_turn", turn_id, tenant_id)
            if resumed is None:
                # It was cancelled while it was parked: its calls stay open for ever.
                raise ApprovalConflict(str(turn_id))
            await transaction.fetch_many(
                "decide_approvals",
                tenant_id,
                turn_id,
                resumed["parked_count"],
                principal.user_id,
                [decision.tool_call_id for decision in new],
                [decision.approved for decision in new],
                [decision.reason for decision in new],
            )
            return turn_from_row(resumed)

        resumed = await self._database.for_tenant(principal).run_in_transaction(decide)
        if resumed is None:
            return await self._turns.get(principal, turn_id)
        self._turns.announce_resumed(resumed)
        for decision in decisions:
            self._metrics.approvals.labels(what="approved" if decision.approved else "denied").inc()
        log.info("turn.decided", turn_id=str(turn_id), decisions=len(decisions))
        return resumed

    async def decide_in_thread(
        self, principal: Principal, thread_id: UUID, decisions: Sequence[Decision]
    ) -> Turn | None:
        """As `decide`, on the turn that asked for these calls; None when no turn did."""
        row = await self._database.for_tenant(principal).fetch_one(
            "find_turn_of_calls",
            principal.tenant_id,
            principal.user_id,
            thread_id,
            [decision.tool_call_id for decision in decisions],
        )
        return None if row is None else await self.decide(principal, row["id"], decisions)
