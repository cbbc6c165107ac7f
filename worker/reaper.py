"""Takes turns from workers that are gone. Fencing makes a false suspicion harmless.

A dead process is noticed at once: the kernel closes its sockets, and its control subscription in
Redis disappears. A host that vanishes without closing anything is noticed when its leases lapse.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

import structlog

from shared.errors import PostgresBusy, PostgresUnavailable, RedisUnavailable
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.control import Control
from shared.redis.dispatch import Dispatch, LineChange
from shared.service.ends import TurnEnds
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

log = structlog.get_logger(__name__)

MOST_PER_PASS: Final = 200
LAPSED_INTERVAL_S: Final = 1.0
_MOST_LOCKED: Final = 3
"""So many turns whose rows are locked may hold up a pass, each for the lock timeout."""
_KEEP_TRIES: Final = 6
_KEEP_PAUSE_S: Final = 0.5
_SILENCES_NEEDED: Final = 2
"""A worker is gone when its subscription was missing in so many passes in a row."""
_STANDSTILL: Final = 0.25
"""Part of a lease by which a pass may be late before lapsed leases prove nothing."""


class Reaper:
    """Every worker runs one; they do not need to agree. `run` is its loop."""

    def __init__(
        self,
        *,
        database: Database,
        dispatch: Dispatch,
        control: Control,
        ends: TurnEnds,
        metrics: Metrics,
        worker_id: str,
        interval_s: float,
        lease_s: float,
        crash_budget: int,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._control = control
        self._ends = ends
        self._metrics = metrics
        self._worker_id = worker_id
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._crash_budget = crash_budget
        self._suspected: dict[str, int] = {}
        self._lapsed_due_at = 0.0
        self._trust_leases_at = 0.0

    async def run(self) -> None:
        """Reaps until cancelled."""
        while True:
            slept_at = time.monotonic()
            await asyncio.sleep(self._interval_s)
            self._check_pace(slept_at + self._interval_s)
            try:
                await self.reap(await self._find_gone_workers())
            except PostgresUnavailable as error:
                self._distrust_leases()
                log.warning("reaper.paused", error=str(error))

    def _check_pace(self, due_at: float) -> bool:
        """Whether what was due at `due_at` came late: this host, or Postgres, stood still."""
        is_late = time.monotonic() - due_at > self._lease_s * _STANDSTILL
        if is_late:
            self._distrust_leases()
        return is_late

    def _distrust_leases(self) -> None:
        # Nobody could renew a lease either: give everyone one lease of time afterwards.
        self._trust_leases_at = time.monotonic() + self._lease_s

    async def _find_gone_workers(self) -> list[str]:
        """Workers whose subscription was missing twice in a row, while our own was seen."""
        try:
            silent = await self._control.list_silent_workers()
        except (RedisUnavailable, RedisReplyError):
            silent = {self._worker_id}
        if self._worker_id in silent:
            self._suspected.clear()
            return []
        self._suspected = {worker: self._suspected.get(worker, 0) + 1 for worker in silent}
        return [w for w, times in self._suspected.items() if times >= _SILENCES_NEEDED]

    async def reap(self, gone: list[str]) -> int:
        """Takes over what the workers in `gone` held, and what has a lapsed lease."""
        now = time.monotonic()
        look_at_leases = now >= self._lapsed_due_at and now >= self._trust_leases_at
        if not gone and not look_at_leases:
            return 0
        if look_at_leases:
            self._lapsed_due_at = now + LAPSED_INTERVAL_S
        rows = await self._database.fetch_many("list_lost_turns", gone, MOST_PER_PASS)
        if self._check_pace(now):
            look_at_leases = False
        lost = [
            row for row in rows if look_at_leases or row["worker_id"] in gone or not row["lapsed"]
        ]
        taken, is_whole = await self._take_all(lost, gone)
        # Only now, and all at once: should Redis hang, no takeover waits for another's news.
        async with asyncio.TaskGroup() as group:
            for turn, attempt in taken:
                group.create_task(self._tell(turn, attempt))
        if gone and is_whole and len(rows) < MOST_PER_PASS:
            await self._forget(gone)
        return len(taken)

    async def _take_all(
        self, rows: Iterable[Any], gone: list[str]
    ) -> tuple[list[tuple[Turn, int]], bool]:
        """What was taken, and whether that is all; the next pass looks at the rest again."""
        taken: list[tuple[Turn, int]] = []
        locked = 0
        for row in rows:
            try:
                turn = await self._take(row["id"], row["attempt"], gone, lapsed=row["lapsed"])
            except PostgresBusy as error:
                log.warning("reaper.turn_locked", turn_id=str(row["id"]), error=str(error))
                locked += 1
                if locked == _MOST_LOCKED:
                    break
                continue
            if turn is not None:
                taken.append((turn, row["attempt"]))
        return taken, locked == 0

    async def _take(
        self, turn_id: object, attempt: int, gone: list[str], *, lapsed: bool
    ) -> Turn | None:
        row = await self._database.fetch_one(
            "reap_turn", turn_id, attempt, self._crash_budget, gone
        )
        if row is None:
            return None
        turn = turn_from_row(row)
        cause = "lease_lapsed" if lapsed else "worker_gone"
        self._metrics.takeovers.labels(cause=cause).inc()
        log.warning(
            "turn.taken_over",
            turn_id=str(turn.id),
            attempt=attempt,
            cause=cause,
            status=turn.status,
        )
        return turn

    async def _tell(self, turn: Turn, attempt: int) -> None:
        if turn.status is TurnStatus.CANCELLED:
            turn = await self._keep_partial_text(turn, attempt)
        if turn.is_terminal:
            self._metrics.turns_ended.labels(status=turn.status).inc()
            await self._ends.publish(turn)
        else:
            await self._wait_again(turn)

    async def _keep_partial_text(self, turn: Turn, attempt: int) -> Turn:
        for _ in range(_KEEP_TRIES):
            try:
                return await self._ends.keep_partial_text(turn, attempt)
            except PostgresUnavailable as error:
                # The takeover is committed: the others' news must not be lost with this text.
                log.warning("turn.partial_text_delayed", turn_id=str(turn.id), error=str(error))
                await asyncio.sleep(_KEEP_PAUSE_S)
        log.error("turn.partial_text_lost", turn_id=str(turn.id))
        return turn

    async def _wait_again(self, turn: Turn) -> None:
        try:
            await self._dispatch.settle(LineChange.of_returned(turn))
        except (RedisUnavailable, RedisReplyError) as error:
            log.warning("turn.undispatched", turn_id=str(turn.id), error=str(error))

    async def _forget(self, gone: list[str]) -> None:
        for worker_id in gone:
            self._suspected.pop(worker_id, None)
        try:
            await self._control.forget_workers(gone)
        except (RedisUnavailable, RedisReplyError) as error:
            log.debug("worker.unforgotten", error=str(error))
