"""Cancelling turns: ask the worker, wait a little, force it.

Postgres holds the wish first, so whoever runs or takes over the turn learns of it in any case.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import structlog

from shared.errors import RedisUnavailable
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.control import Control
from shared.service.ends import TurnEnds
from shared.service.follow import FollowHub
from shared.service.turns import TurnService
from shared.turn.events import Usage
from shared.turn.messages import interrupted_response, preview
from shared.turn.model import Principal, Turn
from shared.turn.state import ACTIVE, TurnStatus

log = structlog.get_logger(__name__)

CANCEL_PAGE: Final = 100
DELIVER_WAIT_S: Final = 0.05
"""How long an acknowledged cancel waits for this process' readers to hear the end."""
LATE_TEXT_S: Final = 30.0
"""So long after a cancel a reader may still say what it saw: browsers close the stream first."""
REDIS_AWAY_CANCEL_WAIT_S: Final = 2.5
"""Without Redis a worker learns of a cancel by its heartbeat."""


class CancelService:
    """Raises the errors of `shared.errors`. `wait_s` is how long a worker has to obey."""

    def __init__(
        self,
        *,
        database: Database,
        control: Control,
        hub: FollowHub,
        turns: TurnService,
        ends: TurnEnds,
        metrics: Metrics,
        wait_s: float,
    ) -> None:
        self._database = database
        self._control = control
        self._hub = hub
        self._turns = turns
        self._ends = ends
        self._metrics = metrics
        self._wait_s = wait_s

    async def cancel(
        self, principal: Principal, turn_id: UUID, partial_text: str | None = None
    ) -> Turn:
        """Ends a turn; when this returns it is terminal and no delta of it is delivered any more.

        A turn that has ended comes back as it is; `partial_text` may come a little late.

        Raises:
            TurnNotFound: unknown, deleted or somebody else's.
        """
        turn, _ = await self.cancel_once(principal, turn_id, partial_text)
        return turn

    async def cancel_once(
        self, principal: Principal, turn_id: UUID, partial_text: str | None = None
    ) -> tuple[Turn, bool]:
        """As `cancel`, and whether this call counts as the one that stopped the turn.

        So does the first, and one that comes when the wait of the first is over.

        Raises:
            TurnNotFound: as `cancel`.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "request_cancel", turn_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            turn = await self._turns.get(principal, turn_id)
            late = await self._add_late_text(principal, turn.thread_id, partial_text, turn_id)
            return late or turn, False
        turn = turn_from_row(row)
        # Both are written by one statement, unless somebody had asked before. Who asked so long ago
        # that their wait is over may not have been told that it was heard.
        asked_ago = row["updated_at"] - row["cancel_requested_at"]
        is_first = turn.is_terminal or not asked_ago or asked_ago.total_seconds() > self._wait_s
        if turn.is_terminal:
            self._count_cancel("pending")
            await self._ends.publish(turn)
        else:
            turn = await self._cancel_running(principal, turn)
        if turn.status is TurnStatus.CANCELLED:
            # Of a turn that ended otherwise meanwhile, readers get every delta.
            await self._hub.deliver_all(turn.id, DELIVER_WAIT_S)
        if partial_text and turn.status is TurnStatus.CANCELLED and not turn.parked_count:
            # Of a turn that was parked, the reader's text runs over several messages: ours stand.
            await self._ends.put_partial_text(turn, partial_text)
            turn = await self._turns.get(principal, turn_id)
        return turn, is_first

    async def cancel_active_of_thread(
        self, principal: Principal, thread_id: UUID, partial_text: str | None = None
    ) -> Turn | None:
        """Cancels the thread's active turn; None when there is none.

        Turns that wait behind it are left alone: Stop means the answer being written. Where the
        last turn was cancelled without a word just now, it is the one that is meant.
        """
        active = await self._turns.find_active(principal, thread_id)
        if active is None:
            return await self._add_late_text(principal, thread_id, partial_text)
        return await self.cancel(principal, active.id, partial_text)

    async def cancel_all_of_thread(self, principal: Principal, thread_id: UUID) -> None:
        """Cancels what is active in a thread by now; what runs comes last, or others would start.

        A turn that comes meanwhile may be left: this ends also where turns keep coming.
        """
        for status in (*(ACTIVE - {TurnStatus.RUNNING}), TurnStatus.RUNNING):
            before_seq: int | None = None
            while turns := await self._turns.list_turns(
                principal,
                thread_id=thread_id,
                status=status,
                concurrency_key=None,
                before_seq=before_seq,
                limit=CANCEL_PAGE,
            ):
                for turn in turns:
                    await self.cancel(principal, turn.id)
                before_seq = turns[-1].accept_seq

    async def _cancel_running(self, principal: Principal, turn: Turn) -> Turn:
        heard = await self._signal_worker(turn)
        if heard is None:
            turn = await self._turns.wait(principal, turn, REDIS_AWAY_CANCEL_WAIT_S)
        elif heard:
            turn = await self._turns.wait(principal, turn, self._wait_s)
        if turn.status is TurnStatus.CANCELLED:
            self._metrics.cancels.labels(how="graceful").inc()
        while not turn.is_terminal:
            forced = await self._force_cancel(turn)
            turn = forced or await self._turns.get(principal, turn.id)
        return turn

    async def _signal_worker(self, turn: Turn) -> bool | None:
        """Whether the turn's worker listens; None when Redis cannot tell."""
        try:
            return await self._control.cancel(turn.worker_id or "", turn.id)
        except (RedisUnavailable, RedisReplyError):
            return None

    async def _force_cancel(self, turn: Turn) -> Turn | None:
        if turn.status is not TurnStatus.RUNNING:
            # Handed back or parked meanwhile: such a turn is cancelled by the request itself.
            row = await self._database.for_tenant(turn).fetch_one(
                "request_cancel", turn.id, turn.tenant_id, turn.user_id
            )
        else:
            text = await self._ends.read_partial_text(turn, turn.attempt)
            usage = Usage(output_tokens=len(text.split())) + turn.usage
            row = await self._database.for_tenant(turn).fetch_one(
                "force_cancel",
                turn.id,
                turn.tenant_id,
                turn.attempt,
                turn.planned_output_message_id if text else None,
                text,
                interrupted_response(text, turn.model_id),
                usage.model_dump(by_alias=True),
                preview(text),
            )
        if row is None:
            return None
        cancelled = turn_from_row(row)
        if not cancelled.is_terminal:
            return None
        self._count_cancel("forced")
        log.info("turn.cancel_forced", turn_id=str(turn.id), attempt=turn.attempt)
        await self._ends.publish(cancelled)
        return cancelled

    async def _add_late_text(
        self,
        principal: Principal,
        thread_id: UUID,
        text: str | None,
        turn_id: UUID | None = None,
    ) -> Turn | None:
        """Gives the thread's last turn the text its reader saw, if its cancel was just now.

        None: there is no text, or no such turn, or it is not `turn_id`.
        """
        if not text:
            return None
        row = await self._database.for_tenant(principal).fetch_one(
            "find_silent_cancel",
            thread_id,
            principal.tenant_id,
            principal.user_id,
            LATE_TEXT_S,
        )
        if row is None or turn_id not in (None, row["id"]):
            return None
        turn = turn_from_row(row)
        await self._ends.put_partial_text(turn, text)
        return await self._turns.get(principal, turn.id)

    def _count_cancel(self, how: str) -> None:
        """A cancel that ended the turn here, not in its worker."""
        self._metrics.cancels.labels(how=how).inc()
        self._metrics.turns_ended.labels(status=TurnStatus.CANCELLED).inc()
