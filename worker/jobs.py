"""Background jobs, run by arq beside the turns. Their names stand in `shared/jobs.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from arq import cron
from arq.cron import CronJob
from arq.worker import Function, func

from shared.errors import ObjectStoreUnavailable
from shared.files.object_store import ObjectStore, StoredObject
from shared.jobs import (
    COLLECT_OBJECTS,
    INGEST_FILES,
    PURGE_ARTIFACTS,
    PURGE_CREDENTIALS,
    PURGE_IDEMPOTENCY_KEYS,
    RUN_AUTOMATIONS,
)
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.settings import Settings
from worker.automations.runner import AutomationRunner
from worker.ingestion.ingester import Ingester

log = structlog.get_logger(__name__)

PURGE_PAGE: Final = 5000
PURGE_ARTIFACTS_PAGE: Final = 200
ARTIFACT_GRACE_S: Final = 3600.0
"""A deleted artifact is kept so long: who uploads the same meanwhile may have been told that its
content is stored."""
OBJECT_GRACE: Final = timedelta(days=1)
"""An object that no row names after so long never will be: its upload has failed."""


async def purge_idempotency_keys(ctx: dict[Any, Any]) -> int:
    """Forgets idempotency keys whose turn ended long enough ago; returns how many."""
    settings: Settings = ctx["settings"]
    total = await _purge(ctx["database"], "purge_idempotency_keys", settings.idempotency_ttl_s)
    log.info("idempotency_keys.purged", count=total)
    return total


async def purge_credentials(ctx: dict[Any, Any]) -> int:
    """Forgets personal tokens and sessions that ended long enough ago; returns how many."""
    settings: Settings = ctx["settings"]
    total = await _purge(ctx["database"], "purge_credentials", settings.ended_credentials_kept_s)
    log.info("credentials.purged", count=total)
    return total


async def _purge(database: Database, query: str, kept_s: float) -> int:
    """Runs a query that deletes a page of what ended `kept_s` ago, until nothing is left."""
    total = 0
    while True:
        row = await database.fetch_one(query, kept_s, PURGE_PAGE)
        purged = 0 if row is None else int(row["purged"])
        total += purged
        if purged < PURGE_PAGE:
            return total


async def purge_artifacts(ctx: dict[Any, Any]) -> int:
    """Removes artifacts that were deleted, and contents that no other one has; returns how many."""
    database: Database = ctx["database"]
    total = 0
    while True:
        rows = await database.fetch_many(
            "list_deleted_artifacts", ARTIFACT_GRACE_S, PURGE_ARTIFACTS_PAGE
        )
        for tenant_id in dict.fromkeys(row["tenant_id"] for row in rows):
            ids = [row["id"] for row in rows if row["tenant_id"] == tenant_id]
            for key in await _purge_of_tenant(database, tenant_id, ids):
                await _discard(ctx["objects"], key)
        total += len(rows)
        if len(rows) < PURGE_ARTIFACTS_PAGE:
            log.info("artifacts.purged", count=total)
            return total


async def _purge_of_tenant(database: Database, tenant_id: UUID, ids: Sequence[UUID]) -> list[str]:
    """Keys of the objects that nothing names any more."""

    async def work(transaction: Transaction) -> list[str]:
        # First, as who makes artifacts does: else two could wait for each other.
        await transaction.fetch_many("lock_storage_use_of", tenant_id)
        rows = await transaction.fetch_many("purge_artifacts", tenant_id, ids, ARTIFACT_GRACE_S)
        return [row["object_key"] for row in rows]

    return await database.run_in_transaction(work)


async def _discard(objects: ObjectStore, key: str) -> None:
    try:
        await objects.delete(key)
    except ObjectStoreUnavailable as error:  # it is collected later
        log.warning("object.not_discarded", error=str(error))


async def collect_objects(ctx: dict[Any, Any]) -> int:
    """Deletes stored objects that no row names, and halves of some; returns how many."""
    objects: ObjectStore = ctx["objects"]
    total = 0
    try:
        total += await objects.remove_leftovers(datetime.now(UTC) - OBJECT_GRACE)
        async for page in objects.list_pages():
            for key in await _find_unnamed(ctx["database"], page):
                await objects.delete(key)
                total += 1
    except ObjectStoreUnavailable as error:
        log.warning("objects.not_collected", error=str(error))
    log.info("objects.collected", count=total)
    return total


async def _find_unnamed(database: Database, page: Sequence[StoredObject]) -> list[str]:
    before = datetime.now(UTC) - OBJECT_GRACE
    keys = [stored.key for stored in page if stored.stored_at < before]
    rows = await database.fetch_many("find_unnamed_objects", keys) if keys else []
    return [row["object_key"] for row in rows]


async def ingest_files(ctx: dict[Any, Any]) -> None:
    """Somebody has attached a file: what to do stands in Postgres."""
    ingester: Ingester = ctx["ingester"]
    ingester.wake()


async def run_automations(ctx: dict[Any, Any]) -> None:
    """Somebody has started a run, or decided on one: the same."""
    automations: AutomationRunner = ctx["automations"]
    automations.wake()


FUNCTIONS: Final[Sequence[Function]] = [
    func(ingest_files, name=INGEST_FILES, timeout=10),
    func(run_automations, name=RUN_AUTOMATIONS, timeout=10),
]


def cron_jobs() -> list[CronJob]:
    """Jobs that arq starts by the clock, once for all workers."""
    return [
        cron(
            purge_idempotency_keys,
            name=PURGE_IDEMPOTENCY_KEYS,
            hour=set(range(24)),
            minute=17,
            timeout=300,
            max_tries=1,
        ),
        cron(
            purge_artifacts,
            name=PURGE_ARTIFACTS,
            hour=set(range(24)),
            minute=29,
            timeout=1800,
            max_tries=1,
        ),
        cron(
            purge_credentials,
            name=PURGE_CREDENTIALS,
            hour=set(range(24)),
            minute=35,
            timeout=300,
            max_tries=1,
        ),
        cron(
            collect_objects,
            name=COLLECT_OBJECTS,
            hour=3,
            minute=41,
            timeout=3600,
            max_tries=1,
        ),
    ]
