"""The heartbeat: one statement prolongs the leases of all turns of this process.

Its answer carries news the other way: a turn that is missing was taken over, and a flag says that
somebody wants it cancelled, should the direct word have been lost. Beside it, and never in its way,
the worker is announced in Redis.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from shared.errors import PostgresUnavailable, RedisUnavailable
from shared.postgres.pool import Database
from shared.redis.connection import RedisReplyError
from shared.redis.control import Control
from shared.redis.subscriber import Subscriber
from worker.held_turns import HeldTurns, StopReason

log = structlog.get_logger(__name__)

UNANNOUNCED_RETRY_S: Final = 0.05
ANNOUNCE_INTERVAL_S: Final = 0.25
"""Short, for Redis may forget us: whoever dies unannounced is missed only by its lapsed lease."""


class Heartbeat:
    """Keeps leases and the worker's announcement alive; `run` is its loop."""

    def __init__(
        self,
        *,
        database: Database,
        control: Control,
        subscriber: Subscriber,
        held: HeldTurns,
        worker_id: str,
        interval_s: float,
        lease_s: float,
    ) -> None:
        self._database = database
        self._control = control
        self._subscriber = subscriber
        self._held = held
        self._worker_id = worker_id
        self._interval_s = interval_s
        self._lease_s = lease_s

    async def run(self) -> None:
        """Beats until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_beats())
            # On its own: a Redis that hangs for seconds must not cost anybody a lease.
            group.create_task(self._run_announcements())

    async def _run_beats(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(self._interval_s)

    async def beat(self) -> None:
        """One heartbeat. What cannot be reached is tried again at the next."""
        try:
            await self._renew()
        except PostgresUnavailable as error:
            log.warning("lease.unrenewed", error=str(error), turns=len(self._held))

    async def _run_announcements(self) -> None:
        while True:
            is_announced = await self._announce()
            await asyncio.sleep(ANNOUNCE_INTERVAL_S if is_announced else UNANNOUNCED_RETRY_S)

    async def _announce(self) -> bool:
        # Who is announced without a control subscription is taken for dead.
        if not self._subscriber.is_connected:
            return False
        try:
            await self._control.announce_worker(self._worker_id)
        except (RedisUnavailable, RedisReplyError) as error:
            log.debug("worker.unannounced", error=str(error))
            return False
        return True

    async def _renew(self) -> None:
        asked = [held for held in self._held.all() if not held.is_ending]
        if not asked:
            return
        rows = await self._database.fetch_many(
            "renew_leases",
            self._worker_id,
            [held.turn.id for held in asked],
            [held.turn.attempt for held in asked],
            self._lease_s,
        )
        kept = {(row["id"], row["attempt"]): row["cancel_requested"] for row in rows}
        for held in asked:
            cancel_requested = kept.get((held.turn.id, held.turn.attempt))
            if cancel_requested:
                held.stop(StopReason.CANCEL)
            elif cancel_requested is None and not held.is_ending:
                held.stop(StopReason.FENCED)
