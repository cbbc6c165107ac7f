"""The arq worker that runs turns: own poll, own wait, own drain; arq keeps the background jobs.

What arq 0.28 does for jobs would lose or repeat turns; each override below names the trap.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Self
from uuid import UUID

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from shared.errors import PostgresUnavailable, RedisUnavailable
from shared.jobs import deserialize_job, serialize_job
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import IdleConnection, ReadyTurns
from shared.turn.model import ClaimedTurn
from worker.held_turns import HeldTurn, StopReason
from worker.jobs import FUNCTIONS, cron_jobs
from worker.parts import WorkerParts

log = structlog.get_logger(__name__)

CLAIM_BATCH: Final = 32
IDLE_WAIT_S: Final = 1
"""An idle worker waits so long for a turn, then looks around; its reply may take the usual more."""
JOBS_INTERVAL_S: Final = 1.0
REDIS_AWAY_POLL_S: Final = 1.0
_HAND_BACK_TIMEOUT_S: Final = 3.0
_ERROR_PAUSE_S: Final = 0.2
_UNBLOCK_INTERVAL_S: Final = 0.02


class TurnWorker(Worker):
    """Claims turns, holds them, and gives them back when it must leave."""

    def __init__(self, parts: WorkerParts) -> None:
        settings = parts.settings
        # Trap: arq's pool has no socket timeouts, so a half-open Redis would hang it for ever; and
        # it pickles jobs, so whoever writes Redis would run code here.
        pool = ConnectionPool.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=5,
            socket_connect_timeout=2,
            health_check_interval=10,
        )
        super().__init__(
            functions=FUNCTIONS,
            cron_jobs=cron_jobs(),
            redis_pool=ArqRedis(
                connection_pool=pool,
                job_serializer=serialize_job,
                job_deserializer=deserialize_job,
                default_queue_name=parts.keys.jobs,
            ),
            queue_name=parts.keys.jobs,
            job_serializer=serialize_job,
            job_deserializer=deserialize_job,
            ctx={
                "database": parts.database,
                "settings": settings,
                "objects": parts.objects,
                "ingester": parts.ingester,
                "automations": parts.automations,
            },
            # Trap: a lost worker's job reruns after its timeout + 10 s, with no owner token.
            # Nothing here may be rerun by arq.
            max_tries=1,
            retry_jobs=False,
            keep_result=0,
            # Trap: arq's signal handler cancels running jobs at once and spends their tries.
            handle_signals=False,
        )
        self._parts = parts
        self._held = parts.held
        self._claims = parts.claims
        self._turn_tasks: set[asyncio.Task[None]] = set()
        self._draining = asyncio.Event()
        self._leave_now = asyncio.Event()
        self._idle = IdleConnection(
            settings.redis_url.get_secret_value(), reply_timeout_s=IDLE_WAIT_S + 4
        )

    def drain(self) -> None:
        """Begins to leave: claims nothing more. Called again: hands everything back at once."""
        if self._draining.is_set():
            self._leave_now.set()
        self._draining.set()
        self.allow_pick_jobs = False

    async def main(self) -> None:
        """Serves until drained. Overrides arq's, which asks Redis for INFO and dies without it."""
        self.ctx["redis"] = self.pool
        async with self._serve():
            log.info("worker.ready", worker_id=self._parts.worker_id)
            while not self._draining.is_set():
                await self._poll_iteration()
            await self._leave()

    @contextlib.asynccontextmanager
    async def _serve(self) -> Any:
        parts = self._parts
        loops = (
            parts.writer.run(),
            parts.heartbeat.run(),
            parts.reaper.run(),
            parts.sweeper.run(),
            parts.ingester.run(),
            parts.automations.run(),
            self._run_jobs(),
        )
        control = parts.subscriber.subscribe_soon(
            parts.keys.control(parts.worker_id), self._hear_control
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(loop) for loop in loops]
                try:
                    yield self
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            control.close()
            await self._idle.close()

    async def _poll_iteration(self) -> None:
        """Claims what is ready, or waits to be handed a turn.

        Trap: arq's polls every 0.5 s with six round trips a job, reads running jobs again and again
        (which caps the fleet at `queue_read_limit`), and ends the process on a Redis error.
        """
        free = self._parts.settings.worker_concurrency - len(self._held)
        if free <= 0:
            await self._wait_for_room()
            return
        try:
            if self._claims.is_unsure:
                await self._claims.release_unheld(self._held.all())
            ready = await self._parts.dispatch.take_ready(min(free, CLAIM_BATCH))
            if ready is None:
                self._parts.sweeper.request_rebuild()
                await self._pause(_ERROR_PAUSE_S)
            elif ready.turn_ids:
                await self._claim(ready)
            else:
                await self._wait_for_ready(ready.generation)
        except (RedisUnavailable, RedisReplyError) as error:
            log.warning("worker.redis_away", error=str(error))
            await self._claim_without_redis(free)
        except PostgresUnavailable as error:
            log.warning("worker.postgres_away", error=str(error))
            await self._pause(_ERROR_PAUSE_S)

    # -- waiting

    async def _wait_for_room(self) -> None:
        self._held.changed.clear()
        if len(self._held) >= self._parts.settings.worker_concurrency:
            await _first(self._held.changed.wait(), self._draining.wait())

    async def _wait_for_ready(self, generation: str) -> None:
        taking = asyncio.create_task(self._idle.take_one(self._parts.keys, generation, IDLE_WAIT_S))
        try:
            await _first_of(taking, self._draining.wait())
            while not taking.done():
                # More than once: it may only be about to wait.
                await self._idle.stop_waiting(self._parts.connection)
                await asyncio.wait([taking], timeout=_UNBLOCK_INTERVAL_S)
            ready = await taking
        finally:
            taking.cancel()
            await asyncio.wait([taking])
        if ready is None:
            return
        if self._draining.is_set():
            await self._parts.dispatch.return_ready(ready)
        else:
            await self._claim(ready)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()

    # -- claiming

    async def _claim(self, ready: ReadyTurns) -> None:
        claimed = await self._claims.claim(ready.turn_ids)
        for turn in claimed:
            self._start(turn, ready.generation)
        refused = set(ready.turn_ids) - {turn.id for turn in claimed}
        if refused:
            await self._claims.settle_refused(refused)

    async def _claim_without_redis(self, free: int) -> None:
        if self._draining.is_set():
            return
        try:
            if self._claims.is_unsure:
                await self._claims.release_unheld(self._held.all())
            for turn in await self._claims.claim_heads(min(free, CLAIM_BATCH)):
                self._start(turn, None)
        except PostgresUnavailable as error:
            log.warning("worker.postgres_away", error=str(error))
        await self._pause(REDIS_AWAY_POLL_S)

    def _start(self, turn: ClaimedTurn, generation: str | None) -> None:
        held = HeldTurn(turn, generation)
        self._held.add(held)
        task = asyncio.create_task(self._run(held), name=f"turn {turn.id}")
        self._turn_tasks.add(task)
        task.add_done_callback(self._turn_tasks.discard)

    async def _run(self, held: HeldTurn) -> None:
        try:
            await self._parts.runner.run(held)
        finally:
            self._held.remove(held)

    # -- control

    def _hear_control(self, message: bytes | None) -> None:
        if message is None:
            return
        try:
            turn_id = UUID(message.decode())
        except ValueError:
            log.warning("control.unreadable")
            return
        held = self._held.get(turn_id)
        if held is not None:
            held.stop(StopReason.CANCEL)

    # -- leaving

    async def _leave(self) -> None:
        """Lets turns end within the grace, hands the rest back, and says goodbye."""
        log.info("worker.draining", turns=len(self._held))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._parts.settings.drain_s):
                while self._turn_tasks and not self._leave_now.is_set():
                    await _first(_all_done(self._turn_tasks), self._leave_now.wait())
        try:
            await self._hand_back()
        except PostgresUnavailable as error:
            log.warning("worker.not_handed_back", turns=len(self._held), error=str(error))
            return  # still announced: our silence tells the others to take over
        if self._claims.is_unsure or any(held.is_ending for held in self._held.all()):
            return  # the same: what is left here must be taken over
        try:
            await self._parts.control.forget_workers([self._parts.worker_id])
        except (RedisUnavailable, RedisReplyError) as error:
            log.debug("worker.unforgotten", error=str(error))

    async def _hand_back(self) -> None:
        rest = [held for held in self._held.all() if not held.is_ending]
        for held in rest:
            held.stop(StopReason.HAND_BACK)
        if self._turn_tasks:
            await asyncio.wait(self._turn_tasks, timeout=_HAND_BACK_TIMEOUT_S)
        if not rest:
            return
        handed_back = await self._claims.hand_back(rest)
        log.info("worker.handed_back", turns=handed_back)

    # -- background jobs

    async def _run_jobs(self) -> None:
        """arq's own poll, at its own pace, for the jobs that are not turns.

        Trap: redis-py sends within `asyncio.wait_for`, which on Python 3.11 swallows a cancel that
        comes while the send completes; without another look the loop would never end. And uvloop
        lets it meet a RuntimeError where its socket has been closed between two writes.
        """
        task = asyncio.current_task()
        while True:
            try:
                await super()._poll_iteration()
            except (RedisError, OSError, RuntimeError) as error:
                is_odd = isinstance(error, RuntimeError)  # may be a defect: tell where it was
                log.warning("jobs.poll_failed", error=str(error), exc_info=is_odd)
                self._forget_lost_jobs()
            if task is not None and task.cancelling():
                return
            await asyncio.sleep(JOBS_INTERVAL_S)

    def _forget_lost_jobs(self) -> None:
        """Frees the places of jobs that were taken and not begun.

        Trap: a Redis error between the two leaks arq's semaphore, one job's place each time.
        """
        if not self.tasks:
            self.sem = asyncio.BoundedSemaphore(self.max_jobs + 1)
            self.job_counter = 0

    async def close(self) -> None:
        """Ends background jobs and closes arq's pool.

        Trap: arq's own asks Redis to forget a health key first, and fails when Redis is away.
        """
        jobs = list(self.tasks.values())
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait(jobs)
        await self.pool.aclose(close_connection_pool=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _first(*awaitables: Any) -> None:
    """Returns when the first is done; the others are cancelled. Raises what the first raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        if not task.cancelled():
            task.result()


async def _first_of(task: asyncio.Task[Any], awaitable: Any) -> None:
    """Returns when either is done; leaves `task` alone."""
    other = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task, other], return_when=asyncio.FIRST_COMPLETED)
    finally:
        other.cancel()
        await asyncio.wait([other])


async def _all_done(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(set(tasks))
