"""How turns become this worker's, and how those that it does not run go back to their lines.

Postgres decides who runs; where it refuses, or takes back, Redis is told why. Used by one task at a
time: a claim that overlapped a release would lose what it has just won.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

import asyncpg
import structlog

from shared.errors import PostgresBusy, PostgresUnavailable, RedisUnavailable
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.postgres.rows import claimed_turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.turn.model import ClaimedTurn
from worker.held_turns import HeldTurn

log = structlog.get_logger(__name__)


class TurnClaims:
    """The claims of one worker process. Raises `PostgresUnavailable` where it cannot ask."""

    def __init__(
        self,
        *,
        database: Database,
        dispatch: Dispatch,
        metrics: Metrics,
        worker_id: str,
        lease_s: float,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._metrics = metrics
        self._worker_id = worker_id
        self._lease_s = lease_s
        self.is_unsure = False
        """The reply of a claim was lost: Postgres may hold claims of ours that nobody runs."""

    # -- taking

    async def claim(self, turn_ids: Sequence[UUID]) -> list[ClaimedTurn]:
        """Those of the turns that are ours now, in the order in which they must start."""
        self.is_unsure = True
        try:
            rows = await self._database.fetch_many(
                "claim_turns", turn_ids, self._worker_id, self._lease_s
            )
            self.is_unsure = False
        except (asyncpg.UniqueViolationError, PostgresBusy):
            rows = await self._claim_one_by_one(turn_ids)
        for row in rows:
            if row["attempt"] == 1:
                self._metrics.queue_wait.observe(row["waited_s"])
        # One statement may have claimed several of a key: they start in the order of their line.
        rows.sort(key=lambda row: row["accept_seq"])
        return [claimed_turn_from_row(row) for row in rows]

    async def _claim_one_by_one(self, turn_ids: Iterable[UUID]) -> list[asyncpg.Record]:
        # Somebody else took the same slot in this very moment: let each claim stand alone.
        rows: list[asyncpg.Record] = []
        # In the order of their ids, which is about that of their lines.
        for turn_id in sorted(turn_ids):
            try:
                rows += await self._database.fetch_many(
                    "claim_turns", [turn_id], self._worker_id, self._lease_s
                )
            except asyncpg.UniqueViolationError:
                continue
            except PostgresBusy:
                # Not claimed. What was is to run soon: the rest goes back to its lines.
                break
            except PostgresUnavailable as error:
                # What was claimed so far is leased to us and must run.
                log.warning("worker.postgres_away", error=str(error))
                return rows
        self.is_unsure = False
        return rows

    async def claim_heads(self, most: int) -> list[ClaimedTurn]:
        """As `claim`, of the turns that wait longest as Postgres has it: Redis hands out none."""
        rows = await self._database.fetch_many("list_claimable_heads", most)
        return await self.claim([row["id"] for row in rows])

    async def settle_refused(self, turn_ids: Collection[UUID]) -> None:
        """Tells Redis why Postgres refused: it has forgotten who runs, or who is first."""
        rows = await self._database.fetch_many("explain_refused_claims", list(turn_ids))
        for row in rows:
            waiting = {}
            if row["waits"] and not row["too_late"]:
                waiting = {row["id"]: row["accept_seq"], row["head_id"]: row["head_seq"]}
            await self._dispatch.settle(
                LineChange(
                    row["tenant_id"],
                    row["concurrency_key"],
                    row["max_running"],
                    over=[row["id"]],
                    running=[turn_id for turn_id in row["running_ids"] if turn_id != row["id"]],
                    waiting=waiting,
                )
            )

    # -- giving back

    async def release_unheld(self, held: Iterable[HeldTurn]) -> None:
        """Gives back what a claim with a lost reply has made ours: all but what is held."""
        rows = await self._database.fetch_many(
            "release_unheld_turns", self._worker_id, [one.turn.id for one in held]
        )
        self.is_unsure = False
        for row in rows:
            log.warning("turn.released_unheld", turn_id=str(row["id"]))
            await self._return_to_line(row)

    async def hand_back(self, held: Sequence[HeldTurn]) -> int:
        """Gives back what this worker has stopped running; how many were still its own."""
        rows = await self._database.fetch_many(
            "hand_back_turns",
            self._worker_id,
            [one.turn.id for one in held],
            [one.turn.attempt for one in held],
        )
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(self._return_to_line(row))
        return len(rows)

    async def _return_to_line(self, row: asyncpg.Record) -> None:
        change = LineChange(
            row["tenant_id"],
            row["concurrency_key"],
            row["max_running"],
            over=[row["id"]],
            waiting={row["id"]: row["accept_seq"]},
        )
        try:
            await self._dispatch.settle(change)
        except (RedisUnavailable, RedisReplyError) as error:
            log.warning("turn.undispatched", turn_id=str(row["id"]), error=str(error))
