"""Claims runs of automations and makes their steps, one after the other, each committed.

Postgres holds the state, a job in Redis only says that there is something: see `ClaimLoop`. Every
write names the attempt of the claim and is refused when there is a newer one. What a step gave is
written before the next step begins, so a worker that takes over goes on behind it; a step that was
under way is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
import orjson
import structlog
from pydantic import JsonValue

from shared.automations.progress import (
    StepState,
    gates_to_open,
    next_call,
    skip_blocked,
    status_of,
)
from shared.automations.status import RunStatus, StepStatus
from shared.errors import PostgresUnavailable
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.settings import Settings
from worker.automations.calls import ClaimedRun, StepCaller
from worker.claim_loop import ClaimLoop
from worker.patience import insist
from worker.tools.base import ToolFailed

if TYPE_CHECKING:
    from shared.outbound.client import GuardedClient

log = structlog.get_logger(__name__)
T = TypeVar("T")

MAX_LOST_WORKERS: Final = 3
"""In one step: then the run fails as `poison`."""
MAX_OUTPUT_BYTES: Final = 4_194_304
"""Of all results of a run together, as JSON: a run is read as a whole."""
NOBODY_DECIDED: Final = "Nobody decided in time"


class _Fenced(Exception):
    """The run is somebody else's, or over."""


class AutomationRunner:
    """`run` is its loop; `wake` makes it look now."""

    def __init__(
        self,
        *,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        outbound: GuardedClient | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._caller = StepCaller(database, settings, outbound)
        self._loop = ClaimLoop(
            "automations",
            self.run_next,
            concurrency=settings.automation_concurrency,
            poll_s=settings.automation_poll_s,
        )

    def wake(self) -> None:
        """A run waits."""
        self._loop.wake()

    async def run(self) -> None:
        """Runs automations until cancelled, `automation_concurrency` at a time."""
        await self._loop.run()

    async def run_next(self) -> bool:
        """Goes on with one run until it is over or parked; whether there was one.

        Raises:
            PostgresUnavailable: what was claimed is taken over when its lease is over.
        """
        row = await self._claim()
        if row is None:
            return False
        if row["status"] == RunStatus.FAILED:
            self._report(row["id"], row["attempt"], RunStatus.FAILED, row["error_code"])
            return True
        run = _claimed(row)
        try:
            while not await self._park_or_end(run):
                await self._make_calls(run)
        except _Fenced:
            log.info("automation_run.fenced", run_id=str(run.id), attempt=run.attempt)
        except asyncio.CancelledError:
            await self._hand_back(run)
            raise
        return True

    async def _claim(self) -> asyncpg.Record | None:
        """A run that is ours now. Who is cancelled meanwhile gives back what was being claimed."""
        asking = asyncio.create_task(
            self._database.fetch_one(
                "claim_automation_run", self._settings.lease_s, MAX_LOST_WORKERS
            )
        )
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait([asking])
            row = None if asking.exception() else asking.result()
            if row is not None:
                await self._hand_back(_claimed(row))
            raise

    # -- steps

    async def _make_calls(self, run: ClaimedRun) -> None:
        """Makes every step that needs nobody's decision."""
        steps = await self._load(run)
        if any(step.is_expired for step in steps):
            await self._many("expire_automation_gates", run, NOBODY_DECIDED)
            steps = await self._load(run)
        if skipped := skip_blocked(steps):
            await self._finish(run, None, skipped=skipped)
        while (step := next_call(steps)) is not None:
            left_bytes = MAX_OUTPUT_BYTES - sum(other.output_bytes for other in steps)
            await self._make(run, step, steps, left_bytes)

    async def _make(
        self, run: ClaimedRun, step: StepState, steps: Sequence[StepState], left_bytes: int
    ) -> None:
        await self._one("begin_automation_step", run, self._settings.lease_s, step.place)
        try:
            output = await self._call(run, step)
            step.output_bytes = len(orjson.dumps(output))
            if step.output_bytes > left_bytes:
                step.output_bytes = 0
                message = f"The results of a run have at most {MAX_OUTPUT_BYTES} bytes together"
                raise ToolFailed(message)  # noqa: TRY301
        except ToolFailed as failure:
            step.status = StepStatus.FAILED
            skipped = skip_blocked(steps)
            await self._finish(run, step, error=str(failure), skipped=skipped)
        else:
            step.status = StepStatus.COMPLETED
            await self._finish(run, step, output=output)

    async def _call(self, run: ClaimedRun, step: StepState) -> JsonValue:
        """What the step gives. Keeps the lease meanwhile, and breaks off when the run is lost."""
        call = asyncio.create_task(self._caller.call(run, step))
        try:
            while not (await asyncio.wait([call], timeout=self._settings.heartbeat_s))[0]:
                await self._one("renew_automation_run", run, self._settings.lease_s)
            return call.result()
        finally:
            call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                call.exception()  # read, so that one nobody waits for does not warn

    # -- the end of it

    async def _park_or_end(self, run: ClaimedRun) -> bool:
        """Parks or ends a run in which there is nothing to do; whether that was so.

        Under the run's lock, which who decides takes as well: no decision falls in between.
        """

        async def work(transaction: Transaction) -> RunStatus | None:
            held = (run.id, run.tenant_id, run.attempt)
            locked = await transaction.fetch_one(
                "renew_automation_run", *held, self._settings.lease_s
            )
            if locked is None:
                raise _Fenced
            rows = await transaction.fetch_many("list_claimed_steps", run.id, run.tenant_id)
            steps = [_step(row) for row in rows]
            if next_call(steps) or skip_blocked(steps) or any(s.is_expired for s in steps):
                return None
            gates = gates_to_open(steps)
            for gate in gates:
                gate.status = StepStatus.AWAITING_APPROVAL
            status = status_of(steps)
            if status is RunStatus.AWAITING_APPROVAL:
                places = [gate.place for gate in gates]
                ttl_s = self._settings.approval_ttl_s
                await transaction.fetch_one("park_automation_run", *held, places, ttl_s)
            else:
                code, message = _error_of(steps)
                await transaction.fetch_one("end_automation_run", *held, status, code, message)
            return status

        status = await _insist(lambda: self._database.run_in_transaction(work))
        if status is None:
            return False
        self._report(run.id, run.attempt, status, None)
        return True

    async def _hand_back(self, run: ClaimedRun) -> None:
        try:
            await self._database.fetch_one(
                "hand_back_automation_run", run.id, run.tenant_id, run.attempt
            )
        except PostgresUnavailable as error:
            log.warning("automation_run.not_handed_back", run_id=str(run.id), error=str(error))

    def _report(self, run_id: Any, attempt: int, status: RunStatus, code: str | None) -> None:
        self._metrics.automation_runs.labels(status=status).inc()
        log.info(
            "automation_run.over", run_id=str(run_id), attempt=attempt, status=status, code=code
        )

    # -- statements

    async def _load(self, run: ClaimedRun) -> list[StepState]:
        rows = await _insist(
            lambda: self._database.fetch_many("list_claimed_steps", run.id, run.tenant_id)
        )
        return [_step(row) for row in rows]

    async def _finish(
        self,
        run: ClaimedRun,
        step: StepState | None,
        *,
        output: JsonValue = None,
        error: str | None = None,
        skipped: Sequence[StepState] = (),
    ) -> None:
        await self._one(
            "finish_automation_step",
            run,
            self._settings.lease_s,
            None if step is None else step.place,
            None if step is None else step.status,
            output,
            error,
            [other.place for other in skipped],
        )

    async def _one(self, name: str, run: ClaimedRun, *args: Any) -> None:
        """A write under the run's attempt, repeated until Postgres has answered: harmless."""
        row = await _insist(
            lambda: self._database.fetch_one(name, run.id, run.tenant_id, run.attempt, *args)
        )
        if row is None:
            raise _Fenced

    async def _many(self, name: str, run: ClaimedRun, *args: Any) -> None:
        await _insist(
            lambda: self._database.fetch_many(name, run.id, run.tenant_id, run.attempt, *args)
        )


async def _insist(ask: Callable[[], Awaitable[T]]) -> T:
    return await insist(ask, on_away=_note_away)


def _note_away(error: PostgresUnavailable) -> None:
    log.warning("automation_run.postgres_away", error=str(error))


def _error_of(steps: Sequence[StepState]) -> tuple[str | None, str | None]:
    """Code and message of a run's error: the first step that went wrong tells."""
    for step in steps:
        if step.status is StepStatus.FAILED:
            return "step_failed", f"Step {step.id} failed"
        if step.status is StepStatus.DENIED:
            return "denied", f"Step {step.id} was denied"
    return None, None


def _claimed(row: asyncpg.Record) -> ClaimedRun:
    return ClaimedRun(
        id=row["id"],
        tenant_id=row["tenant_id"],
        user_id=row["user_id"],
        author_id=row["author_id"],
        attempt=row["attempt"],
        timezone=row["timezone"],
    )


def _step(row: asyncpg.Record) -> StepState:
    return StepState(
        place=row["place"],
        id=row["step_id"],
        kind=row["kind"],
        input=row["input"],
        depends_on=frozenset(row["depends_on"]),
        source=row["source"],
        status=StepStatus(row["status"]),
        output_bytes=row["output_bytes"],
        is_expired=row["is_expired"],
    )
