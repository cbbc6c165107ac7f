"""Brings back to Redis what it should know: everything after a loss, single stalled turns else.

Also ends turns that waited too long, decides for people who did not in time, and removes transient
threads that nobody else has. Every worker runs one; passes are idempotent and bounded.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

import structlog

from shared.errors import PostgresUnavailable, RedisUnavailable
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.service.ends import TurnEnds
from shared.service.transient_threads import remove_transient_threads
from shared.service.turns import TurnService

log = structlog.get_logger(__name__)

PAGE: Final = 500
STALLED_PAGE: Final = 20_000
"""Pending turns looked at in one pass: 40 ms of Postgres, however many wait."""
STALLED_AFTER_S: Final = 1.5
EXPIRE_PAGE: Final = 100
TRANSIENT_KEPT_S: Final = 60.0
"""A transient thread after its turn: whoever asked takes the answer, and removes it themselves."""


class Sweeper:
    """`run` is its loop; `request_rebuild` wakes it when somebody meets a Redis without state."""

    def __init__(
        self,
        *,
        database: Database,
        dispatch: Dispatch,
        turns: TurnService,
        ends: TurnEnds,
        metrics: Metrics,
        interval_s: float,
        approval_expiry: Literal["deny", "cancel"] = "deny",
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._turns = turns
        self._ends = ends
        self._metrics = metrics
        self._interval_s = interval_s
        self._approval_expiry = approval_expiry
        self._stalled_after_seq = 0
        self._woken = asyncio.Event()

    def request_rebuild(self) -> None:
        """Makes the next pass happen now."""
        self._woken.set()

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except (PostgresUnavailable, RedisUnavailable, RedisReplyError) as error:
                log.debug("sweeper.paused", error=str(error))
                await asyncio.sleep(0.1)
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._woken.wait()
            except TimeoutError:
                continue
            finally:
                self._woken.clear()

    async def sweep(self) -> None:
        """One pass. Raises when Postgres or Redis is away."""
        await self._expire()
        await self._expire_approvals()
        if not await self._dispatch.keep_generation():
            await self.rebuild()
        await self._restore_stalled()
        # Last: nobody waits for it, and where it fails the rest is done.
        await self._remove_transient_threads()

    async def rebuild(self) -> None:
        """Tells Redis everything that waits or runs; then, and only then, a new generation."""
        after_seq, count = 0, 0
        while True:
            rows = await self._database.fetch_many("list_waiting_turns", after_seq, PAGE)
            for change in _group(rows):
                await self._dispatch.settle(change)
            count += len(rows)
            if len(rows) < PAGE:
                break
            after_seq = rows[-1]["accept_seq"]
        await self._dispatch.begin_generation()
        self._metrics.rebuilds.inc()
        log.info("redis.rebuilt", turns=count)

    async def _restore_stalled(self) -> None:
        rows = await self._database.fetch_many(
            "list_stalled_heads", self._stalled_after_seq, STALLED_PAGE, STALLED_AFTER_S
        )
        looked_at, looked_to = rows[0]["looked_at"], rows[0]["looked_to"]
        self._stalled_after_seq = looked_to if looked_at == STALLED_PAGE else 0
        for row in rows:
            if row["id"] is None:
                continue
            await self._dispatch.settle(
                LineChange(
                    row["tenant_id"],
                    row["concurrency_key"],
                    row["max_running"],
                    running=row["running_ids"],
                    waiting={row["id"]: row["accept_seq"]},
                    reset=True,
                )
            )

    async def _expire(self) -> None:
        for row in await self._database.fetch_many("expire_turns", EXPIRE_PAGE):
            turn = turn_from_row(row)
            self._metrics.turns_ended.labels(status=turn.status).inc()
            log.info("turn.expired", turn_id=str(turn.id))
            await self._ends.publish(turn)

    async def _expire_approvals(self) -> None:
        if self._approval_expiry == "deny":
            query, why = "deny_expired_approvals", "The approval expired: nobody decided in time"
        else:
            query, why = "cancel_expired_approvals", "Nobody decided on its tool calls in time"
        for row in await self._database.fetch_many(query, EXPIRE_PAGE, why):
            turn = turn_from_row(row)
            self._metrics.approvals.labels(what="expired").inc()
            log.info("turn.approval_expired", turn_id=str(turn.id), status=turn.status)
            if turn.is_terminal:
                self._metrics.turns_ended.labels(status=turn.status).inc()
                await self._ends.publish(turn)
            else:
                self._turns.announce_resumed(turn)

    async def _remove_transient_threads(self) -> None:
        rows = await self._database.fetch_many(
            "list_over_transient_threads", TRANSIENT_KEPT_S, EXPIRE_PAGE
        )
        if rows:
            await remove_transient_threads(self._database, [row["id"] for row in rows])


def _group(rows: list[Any]) -> list[LineChange]:
    lines: dict[tuple[Any, str], LineChange] = {}
    for row in rows:
        key = (row["tenant_id"], row["concurrency_key"])
        change = lines.setdefault(key, LineChange(*key, row["max_running"]))
        if row["running"]:
            change.running.append(row["id"])
        else:
            change.waiting[row["id"]] = row["accept_seq"]
    return list(lines.values())
