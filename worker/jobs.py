"""Background jobs, run by arq beside the turns. Their names stand in `shared/jobs.py`."""

from __future__ import annotations

from typing import Any, Final

import structlog
from arq import cron
from arq.cron import CronJob

from shared.jobs import PURGE_IDEMPOTENCY_KEYS
from shared.postgres.pool import Database
from shared.settings import Settings

log = structlog.get_logger(__name__)

PURGE_PAGE: Final = 5000


async def purge_idempotency_keys(ctx: dict[Any, Any]) -> int:
    """Forgets idempotency keys whose turn ended long enough ago; returns how many."""
    database: Database = ctx["database"]
    settings: Settings = ctx["settings"]
    total = 0
    while True:
        row = await database.fetch_one(
            "purge_idempotency_keys", settings.idempotency_ttl_s, PURGE_PAGE
        )
        purged = 0 if row is None else int(row["purged"])
        total += purged
        if purged < PURGE_PAGE:
            log.info("idempotency_keys.purged", count=total)
            return total


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
        )
    ]
