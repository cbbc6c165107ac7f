"""Runs of automations: start, read, decide on gates, cancel. Workers make the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from shared.automations.config import in_order
from shared.automations.decision import GateDecision, StoredStep, find_new_decisions
from shared.automations.status import AutomationStatus, RunStatus, StepStatus
from shared.errors import (
    AutomationConflict,
    AutomationRunNotFound,
    InvalidRequest,
    QueueFull,
)
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.automations import found, read_page, require_runnable
from shared.turn.model import Principal

log = structlog.get_logger(__name__)

MAX_OPEN_RUNS: Final = 1000
"""Of one tenant: waiting, running and parked ones together."""
_RETRY_AFTER_S: Final = 10


class AutomationRunService:
    """`ring` tells the workers that a run waits; `kinds` are those that they can run."""

    def __init__(self, database: Database, kinds: frozenset[str], ring: Callable[[], None]) -> None:
        self._database = database
        self._kinds = kinds
        self._ring = ring

    async def start(
        self, principal: Principal, automation_id: UUID, version: int | None
    ) -> asyncpg.Record:
        """A run that waits for a worker: of the version named, else the active, else the newest.

        Raises:
            AutomationNotFound: unknown, deleted or another tenant's.
            InvalidRequest: there is no such version.
            AutomationConflict: the automation is paused, or holds a step that nobody here can run.
            QueueFull: the tenant has too many runs that are not over.
        """
        tenant_id = principal.tenant_id

        async def write(transaction: Transaction) -> asyncpg.Record | None:
            row = found(await transaction.fetch_one("lock_automation", automation_id, tenant_id))
            if row["status"] == AutomationStatus.PAUSED:
                raise AutomationConflict("The automation is paused")
            wanted = version or row["active_version"] or row["version"]
            stored = await transaction.fetch_one(
                "get_automation_version", automation_id, tenant_id, wanted
            )
            if stored is None:
                loc = ("body", "versionNumber")
                raise InvalidRequest(loc, "The automation has no such version")
            self._require_runnable(stored["config"])
            counted = await transaction.fetch_one("count_open_runs", tenant_id, MAX_OPEN_RUNS)
            if counted is not None and counted["total"] >= MAX_OPEN_RUNS:
                raise QueueFull(
                    "Too many runs of this tenant are not over",
                    reason="automation_runs",
                    retry_after_s=_RETRY_AFTER_S,
                )
            return await transaction.fetch_one(
                "create_automation_run",
                new_id(),
                tenant_id,
                automation_id,
                wanted,
                principal.user_id,
                [_planned(step) for step in in_order(stored["config"])],
            )

        run = _found_run(await self._database.for_tenant(principal).run_in_transaction(write))
        self._ring()
        log.info("automation_run.started", run_id=str(run["id"]), version=run["version"])
        return run

    def _require_runnable(self, config: dict[str, Any]) -> None:
        try:
            require_runnable(config, self._kinds)
        except InvalidRequest as error:
            step = config["steps"][error.loc[3]]
            message = f"Step {step['id']}: this deployment runs no steps of kind {step['kind']}"
            raise AutomationConflict(message) from None

    async def get(
        self, principal: Principal, run_id: UUID
    ) -> tuple[asyncpg.Record, Sequence[asyncpg.Record]]:
        """One run, and its steps in the order of execution.

        Raises:
            AutomationRunNotFound: unknown, another tenant's, or of a deleted automation.
        """

        async def read(
            transaction: Transaction,
        ) -> tuple[asyncpg.Record, Sequence[asyncpg.Record]]:
            return await _read(transaction, principal, run_id)

        return await self._database.for_tenant(principal).run_in_transaction(read)

    async def list_runs(
        self,
        principal: Principal,
        *,
        status: RunStatus | None,
        automation_id: UUID | None,
        limit: int,
        offset: int,
    ) -> tuple[Sequence[asyncpg.Record], int]:
        """A page, newest first, and how many there are in all."""
        return await read_page(
            lambda offset, limit: self._database.for_tenant(principal).fetch_many(
                "list_automation_runs", principal.tenant_id, status, automation_id, offset, limit
            ),
            offset,
            limit,
        )

    async def decide(
        self, principal: Principal, run_id: UUID, decisions: Sequence[GateDecision]
    ) -> tuple[asyncpg.Record, Sequence[asyncpg.Record]]:
        """Decides on open gates; the run goes on. The same again changes nothing.

        Raises:
            AutomationRunNotFound: as in `get`.
            InvalidRequest: a step is no gate of the run, or is named twice.
            AutomationConflict: a gate was decided otherwise, or is not open.
        """
        tenant_id = principal.tenant_id

        async def write(
            transaction: Transaction,
        ) -> tuple[bool, tuple[asyncpg.Record, Sequence[asyncpg.Record]]]:
            _found_run(await transaction.fetch_one("lock_automation_run", run_id, tenant_id))
            rows = await transaction.fetch_many("list_run_steps", run_id, tenant_id)
            new = find_new_decisions({row["step_id"]: _stored(row) for row in rows}, decisions)
            if new:
                await transaction.fetch_many(
                    "decide_gates",
                    run_id,
                    tenant_id,
                    principal.user_id,
                    [decision.step_id for decision in new],
                    [decision.approved for decision in new],
                    [decision.reason for decision in new],
                )
                await transaction.fetch_one("resume_automation_run", run_id, tenant_id)
            return bool(new), await _read(transaction, principal, run_id)

        is_new, told = await self._database.for_tenant(principal).run_in_transaction(write)
        if is_new:
            self._ring()
            log.info("automation_run.decided", run_id=str(run_id), decisions=len(decisions))
        return told

    async def cancel(
        self, principal: Principal, run_id: UUID
    ) -> tuple[asyncpg.Record, Sequence[asyncpg.Record]]:
        """Ends a run. One that is over already is left as it is.

        Raises:
            AutomationRunNotFound: as in `get`.
        """
        tenant_id = principal.tenant_id

        async def write(
            transaction: Transaction,
        ) -> tuple[asyncpg.Record, Sequence[asyncpg.Record]]:
            _found_run(await transaction.fetch_one("lock_automation_run", run_id, tenant_id))
            await transaction.fetch_one("cancel_automation_run", run_id, tenant_id)
            return await _read(transaction, principal, run_id)

        return await self._database.for_tenant(principal).run_in_transaction(write)


async def _read(
    transaction: Transaction, principal: Principal, run_id: UUID
) -> tuple[asyncpg.Record, Sequence[asyncpg.Record]]:
    tenant_id = principal.tenant_id
    run = _found_run(await transaction.fetch_one("get_automation_run", run_id, tenant_id))
    return run, await transaction.fetch_many("list_run_steps", run_id, tenant_id)


def _planned(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": step["id"],
        "kind": step["kind"],
        "name": step["name"],
        "input": step["input"],
        "depends_on": step["dependsOn"],
        "deterministic": step["isDeterministic"],
        "source": step["source"],
    }


def _stored(row: asyncpg.Record) -> StoredStep:
    decision = None
    if row["approved"] is not None:
        decision = GateDecision(row["step_id"], row["approved"], row["reason"])
    return StoredStep(
        row["kind"],
        StepStatus(row["status"]),
        decision,
        is_by_clock=row["approved"] is not None and row["decided_by"] is None,
    )


def _found_run(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AutomationRunNotFound
    return row
