"""Tells some worker at once that there is a job; what it is about stands in Postgres.

A ring that is lost, with Redis or on the way there, costs `ingestion_poll_s` or
`automation_poll_s`: workers look by themselves as well.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import structlog

from shared.errors import RedisUnavailable
from shared.jobs import serialize_job
from shared.redis.connection import RedisConnection, RedisReplyError
from shared.redis.keys import Keys

log = structlog.get_logger(__name__)

TTL_MS: Final = 60_000
"""A ring that nobody hears is stale after this."""


class Doorbell:
    """Enqueues an arq job without arguments, as arq would write it; a test holds it to that."""

    def __init__(self, connection: RedisConnection, keys: Keys, job: str) -> None:
        """`job` is a name of `shared/jobs.py`."""
        self._connection = connection
        self._queue = keys.jobs
        self._job = job
        self._job_id = f"{keys.prefix}-{job}"
        self._ringing: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Nobody waits for it; a ring while one is on its way, or unheard, is the same ring."""
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.create_task(self._enqueue())

    async def _enqueue(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        job: dict[str, Any] = {"t": None, "f": self._job, "a": [], "k": {}, "et": now_ms}
        try:
            await self._connection.call(
                "SET", f"arq:job:{self._job_id}", serialize_job(job), "PX", TTL_MS
            )
            await self._connection.call("ZADD", self._queue, "NX", now_ms, self._job_id)
        except (RedisUnavailable, RedisReplyError) as error:
            log.debug("job.not_rung", job=self._job, error=str(error))
