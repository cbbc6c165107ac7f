"""Automations of a tenant: list, create, read, change, delete; and threads made into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
import structlog

from shared.agents.tool_names import APPROVAL
from shared.automations.config import (
    APPROVAL_GATE,
    MAX_STEPS,
    AutomationConfigInput,
    check_kinds,
    normalize,
)
from shared.automations.crystallize import DEFAULT_NAME, Said, crystallize, find_actions
from shared.automations.status import AutomationStatus
from shared.errors import (
    AutomationConflict,
    AutomationNotFound,
    ConcurrencyConflict,
    ThreadNotFound,
)
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.changes import UNCHANGED
from shared.turn.model import Principal

log = structlog.get_logger(__name__)

LISTED_CONFIG_BYTES: Final = 8_192
"""A longer config is left out of lists: a page has 1,000 automations."""


def runnable_kinds(tools: frozenset[str]) -> frozenset[str]:
    """Kinds of steps that a deployment with these tools can run: a gate asks instead of a tool."""
    return (tools - {APPROVAL}) | {APPROVAL_GATE}


@dataclass(frozen=True, slots=True)
class AutomationChange:
    """What is `UNCHANGED` stays as it is."""

    name: str | object = UNCHANGED
    description: str | object | None = UNCHANGED
    config: AutomationConfigInput | object = UNCHANGED
    status: AutomationStatus | object = UNCHANGED


class AutomationService:
    """Rows come as records of `get_automation`. `kinds` are those that workers can run."""

    def __init__(self, database: Database, kinds: frozenset[str]) -> None:
        self._database = database
        self._kinds = kinds

    async def list_automations(
        self, principal: Principal, *, status: AutomationStatus | None, limit: int, offset: int
    ) -> tuple[Sequence[asyncpg.Record], int]:
        """A page, newest first, and how many there are in all."""
        return await read_page(
            lambda offset, limit: self._database.for_tenant(principal).fetch_many(
                "list_automations", principal.tenant_id, status, offset, limit, LISTED_CONFIG_BYTES
            ),
            offset,
            limit,
        )

    async def get(self, principal: Principal, automation_id: UUID) -> asyncpg.Record:
        """One automation with its newest version.

        Raises:
            AutomationNotFound: unknown, deleted or another tenant's.
        """
        return found(
            await self._database.for_tenant(principal).fetch_one(
                "get_automation", automation_id, principal.tenant_id
            )
        )

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        description: str | None,
        config: AutomationConfigInput,
    ) -> asyncpg.Record:
        """A draft that somebody has written.

        Raises:
            InvalidRequest: the steps are none that can be run.
        """
        stored = normalize(config, self._kinds)
        new = _NewAutomation(name, stored, "manual", description=description)

        async def write(transaction: Transaction) -> asyncpg.Record:
            automation_id = await _add(transaction, principal, new)
            return found(
                await transaction.fetch_one("get_automation", automation_id, principal.tenant_id)
            )

        return await self._database.for_tenant(principal).run_in_transaction(write)

    async def crystallize(self, principal: Principal, thread_id: UUID, name: str | None) -> UUID:
        """A draft that does what the thread's agent did: the new automation's id.

        Kinds of steps that this deployment does not run are kept: the draft shows them.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
            ConcurrencyConflict: the thread has an active turn.
            NotCrystallizable: no completed turn has called a tool with success, or too many have.
        """
        tenant_id, user_id = principal.tenant_id, principal.user_id

        async def work(transaction: Transaction) -> UUID:
            # Under its lock the thread takes no further turn.
            if await transaction.fetch_one("lock_thread", thread_id, tenant_id, user_id) is None:
                raise ThreadNotFound
            active = await transaction.fetch_one(
                "find_active_turn_of_thread", tenant_id, user_id, thread_id
            )
            if active is not None:
                raise ConcurrencyConflict(str(active["id"]))
            thread = await transaction.fetch_one("get_thread", thread_id, tenant_id, user_id)
            if thread is None:
                raise ThreadNotFound
            rows = await transaction.fetch_many("list_actions", tenant_id, thread_id, MAX_STEPS + 1)
            config = crystallize(thread_id, find_actions([_said(row) for row in rows]))
            new = _NewAutomation(
                name or thread["title"] or DEFAULT_NAME,
                config,
                "thread",
                thread_id=thread_id,
                agent_spec_id=thread["agent_spec_id"],
            )
            return await _add(transaction, principal, new)

        automation_id = await self._database.for_tenant(principal).run_in_transaction(work)
        log.info("thread.crystallized", thread_id=str(thread_id), automation_id=str(automation_id))
        return automation_id

    async def update(
        self, principal: Principal, automation_id: UUID, change: AutomationChange
    ) -> asyncpg.Record:
        """Another config is a new version; activating makes the newest version the one that runs.

        Raises:
            AutomationNotFound: unknown, deleted or another tenant's.
            InvalidRequest: steps that cannot be run, written now or to be activated.
            AutomationConflict: what was never active cannot be paused.
        """
        tenant_id = principal.tenant_id
        config = None
        if isinstance(change.config, AutomationConfigInput):
            config = normalize(change.config, self._kinds)

        async def write(transaction: Transaction) -> asyncpg.Record:
            row = found(await transaction.fetch_one("lock_automation", automation_id, tenant_id))
            version = row["version"]
            if config is not None and config != row["config"]:
                version += 1
                await transaction.fetch_one(
                    "add_automation_version", automation_id, tenant_id, version, config,
                    len(orjson.dumps(config)), principal.user_id,
                )  # fmt: skip
            newest = row["config"] if config is None else config
            status, active_version = self._status_after(row, change, version, newest)
            name = row["name"] if change.name is UNCHANGED else change.name
            told = row["description"] if change.description is UNCHANGED else change.description
            before = (row["name"], row["description"], row["status"], row["version"])
            if (name, told, status, version) != before or active_version != row["active_version"]:
                await transaction.fetch_one(
                    "update_automation", automation_id, tenant_id, name, told, status, version,
                    active_version, principal.user_id,
                )  # fmt: skip
            return found(await transaction.fetch_one("get_automation", automation_id, tenant_id))

        return await self._database.for_tenant(principal).run_in_transaction(write)

    def _status_after(
        self, row: Any, change: AutomationChange, version: int, config: dict[str, Any]
    ) -> tuple[str, int | None]:
        """Status and active version once a change is made."""
        if change.status is AutomationStatus.ACTIVE:
            require_runnable(config, self._kinds)
            return AutomationStatus.ACTIVE, version
        if change.status is AutomationStatus.DRAFT:
            return AutomationStatus.DRAFT, None
        if change.status is AutomationStatus.PAUSED:
            if row["active_version"] is None:
                raise AutomationConflict("Only an active automation can be paused")
            return AutomationStatus.PAUSED, row["active_version"]
        return row["status"], row["active_version"]

    async def delete(self, principal: Principal, automation_id: UUID) -> None:
        """Hides an automation and its runs; those that are not over are cancelled.

        Raises:
            AutomationNotFound: unknown, deleted or another tenant's.
        """
        tenant_id = principal.tenant_id

        async def hide(transaction: Transaction) -> None:
            found(await transaction.fetch_one("lock_automation", automation_id, tenant_id))
            open_runs = await transaction.fetch_many("list_open_runs", tenant_id, automation_id)
            for run in open_runs:
                await transaction.fetch_one("cancel_automation_run", run["id"], tenant_id)
            await transaction.fetch_one(
                "delete_automation", automation_id, tenant_id, principal.user_id
            )

        await self._database.for_tenant(principal).run_in_transaction(hide)


@dataclass(frozen=True, slots=True)
class _NewAutomation:
    name: str
    config: dict[str, Any]
    source_type: str
    description: str | None = None
    thread_id: UUID | None = None
    agent_spec_id: UUID | None = None


async def _add(transaction: Transaction, principal: Principal, new: _NewAutomation) -> UUID:
    automation_id = new_id()
    await transaction.fetch_one(
        "create_automation",
        automation_id,
        principal.tenant_id,
        new.name,
        new.description,
        new.source_type,
        new.thread_id,
        new.agent_spec_id,
        principal.user_id,
        new.config,
        len(orjson.dumps(new.config)),
    )
    return automation_id


def require_runnable(config: dict[str, Any], kinds: frozenset[str]) -> None:
    """Raises InvalidRequest at the first step of a stored config that nobody here can run."""
    check_kinds([step["kind"] for step in config["steps"]], kinds)


async def read_page(
    fetch: Callable[[int, int], Any], offset: int, limit: int
) -> tuple[Sequence[asyncpg.Record], int]:
    """A page of rows that know their `total`, which is asked for again past the end."""
    rows: Sequence[asyncpg.Record] = await fetch(offset, limit)
    counted = rows or (await fetch(0, 1) if offset else [])
    return rows, counted[0]["total"] if counted else 0


def _said(row: asyncpg.Record) -> Said:
    return Said(
        turn_id=row["turn_id"],
        input_message_id=row["input_message_id"],
        calls=row["calls"] or (),
        succeeded=row["succeeded"] or (),
        approved=row["approved"],
    )


def found(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AutomationNotFound
    return row
