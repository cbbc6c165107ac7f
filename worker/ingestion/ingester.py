"""Reads files that were attached: claims them in Postgres, a few at a time, and writes their text.

A job in Redis only says that there is something; what, Postgres knows. So a file is found again
whatever was lost: a ring with Redis by the next look, a worker by its lease.
"""

from __future__ import annotations

import asyncio
import time
from typing import IO, Any, Final

import structlog

from shared.errors import ObjectStoreUnavailable, PostgresUnavailable
from shared.files.object_store import ObjectStore
from shared.files.spool import Spool
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.settings import Settings
from shared.turn.ingestion import IngestionStatus
from shared.turn.text import storable
from worker.claim_loop import ClaimLoop
from worker.ingestion.reading import Reading, ReadingFailed, read_text

log = structlog.get_logger(__name__)

MAX_TRIES: Final = 3
DOWNLOAD_TIMEOUT_S: Final = 120.0
AWAY_PAUSE_S: Final = 15.0
RETRY_PAUSE_S: Final = 5.0
_LEASE_MARGIN_S: Final = 30.0


class Ingester:
    """`run` is its loop; `wake` makes it look now."""

    def __init__(
        self, *, database: Database, objects: ObjectStore, settings: Settings, metrics: Metrics
    ) -> None:
        self._database = database
        self._objects = objects
        self._settings = settings
        self._metrics = metrics
        self._lease_s = settings.ingestion_timeout_s + DOWNLOAD_TIMEOUT_S + _LEASE_MARGIN_S
        self._loop = ClaimLoop(
            "ingestion",
            self.ingest_next,
            concurrency=settings.ingestion_concurrency,
            poll_s=settings.ingestion_poll_s,
        )

    def wake(self) -> None:
        """Somebody has attached a file, or waits for its text."""
        self._loop.wake()

    async def run(self) -> None:
        """Reads files until cancelled, `ingestion_concurrency` at a time."""
        await self._loop.run()

    async def ingest_next(self) -> bool:
        """Reads one file; whether there was one.

        Raises:
            PostgresUnavailable: what was claimed is tried again when its lease is over.
        """
        row = await self._database.fetch_one("claim_ingestion", self._lease_s, MAX_TRIES)
        if row is None:
            return False
        if row["ingestion_status"] == IngestionStatus.FAILED:
            self._report(row, "failed", "poison", 0.0)
            return True
        began = time.monotonic()
        try:
            reading = await self._read(row)
        except asyncio.CancelledError:
            await self._give_back(row)
            raise
        except ReadingFailed as error:
            await self._fail(row, error, began)
        except (ObjectStoreUnavailable, OSError) as error:
            # The store, or this worker's own disk or processes: no fault of the file's, so the try
            # does not count.
            log.warning("ingestion.out_of_service", error=str(error))
            await self._postpone(row, AWAY_PAUSE_S, "out_of_service", forgive=True)
        else:
            text = storable(reading.text)
            await self._finish(row, IngestionStatus.COMPLETED, None, text, is_cut=reading.is_cut)
            self._report(row, "completed", None, began)
        return True

    async def _read(self, row: Any) -> Reading:
        with Spool(row["size_bytes"], await self._objects.spool_folder()) as spool:
            file = await self._download(row["object_key"], spool)
            return await read_text(file, row["reader"], self._settings)

    async def _download(self, key: str, spool: Spool) -> IO[bytes]:
        """The file, on disk.

        Raises:
            ReadingFailed: `missing`, the store knows no such object.
            ObjectStoreUnavailable: it did not come whole, or found no room here.
        """
        try:
            async with asyncio.timeout(DOWNLOAD_TIMEOUT_S), self._objects.read(key) as pieces:
                async for piece in pieces:
                    spool.add(piece)
                    await spool.flush()
        except TimeoutError as error:
            raise ObjectStoreUnavailable("The file did not come in time") from error
        except ObjectStoreUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise ReadingFailed("missing", is_final=True) from error
            raise
        return await spool.finish()

    async def _fail(self, row: Any, error: ReadingFailed, began: float) -> None:
        if error.is_final or row["ingestion_attempt"] >= MAX_TRIES:
            await self._finish(row, IngestionStatus.FAILED, error.reason, None)
            self._report(row, "failed", error.reason, began)
        else:
            await self._postpone(row, RETRY_PAUSE_S, error.reason)
            self._report(row, "postponed", error.reason, began)

    async def _give_back(self, row: Any) -> None:
        try:
            await self._postpone(row, 0.0, "handed_back", forgive=True)
        except PostgresUnavailable as error:
            log.warning("ingestion.not_handed_back", error=str(error))

    async def _postpone(
        self, row: Any, pause_s: float, reason: str, *, forgive: bool = False
    ) -> None:
        await self._database.fetch_one(
            "postpone_ingestion",
            row["tenant_id"],
            row["sha256"],
            row["ingestion_attempt"],
            pause_s,
            forgive,
            reason,
        )

    async def _finish(
        self,
        row: Any,
        status: IngestionStatus,
        reason: str | None,
        text: str | None,
        *,
        is_cut: bool = False,
    ) -> None:
        await self._database.fetch_one(
            "finish_ingestion",
            row["tenant_id"],
            row["sha256"],
            row["ingestion_attempt"],
            status,
            reason,
            text,
            is_cut,
        )

    def _report(self, row: Any, outcome: str, reason: str | None, began: float) -> None:
        self._metrics.ingestions.labels(outcome=outcome).inc()
        log.info(
            "ingestion.over",
            outcome=outcome,
            tenant_id=str(row["tenant_id"]),
            sha256=row["sha256"].hex(),
            reader=row["reader"],
            size_bytes=row["size_bytes"],
            attempt=row["ingestion_attempt"],
            reason=reason,
            took_s=round(time.monotonic() - began, 3) if began else None,
        )
