"""Many small writes in one commit: while one batch is being committed, the next one gathers.

No timer: on an idle process a write goes out at once, on a busy one commits carry many.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database

MAX_BATCH: Final = 64
_LANES: Final = 2
"""Batches in flight at once: one commits while the other is being sent."""
MAX_WAIT_S: Final = 5.0
"""What has waited longer for its batch is refused: Postgres is away, or far behind."""


class _Run(NamedTuple):
    args: tuple[Any, ...]
    contended: UUID
    asked_at: float
    future: asyncio.Future[asyncpg.Record | None]


class GroupCommit:
    """Runs one named query for many callers. Its rows have an `id` = the first argument.

    A caller gets its row, or None when its run changed nothing. When one run of a batch breaks a
    constraint, the batch is undone and its runs are repeated one by one: each caller gets its own
    outcome.
    """

    def __init__(self, database: Database, query: str) -> None:
        self._database = database
        self._query = query
        self._gathering: list[_Run] = []
        self._flushes: set[asyncio.Task[None]] = set()

    async def run(self, *args: Any, contended: UUID) -> asyncpg.Record | None:
        """The row of this run, once its batch is committed.

        A cancelled caller does not undo its write. `contended` is the thread, the one row that runs
        of different batches write: all batches lock threads in the same order, so none deadlocks.

        Raises:
            PostgresUnavailable: the outcome of the commit is unknown, or it did not happen, or the
                run waited `MAX_WAIT_S` for its batch.
            asyncpg.PostgresError: this run broke a constraint.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[asyncpg.Record | None] = loop.create_future()
        self._gathering.append(_Run(args, contended, loop.time(), future))
        if len(self._flushes) < _LANES:
            self._start_flush()
        return await future

    def _start_flush(self) -> None:
        task = asyncio.create_task(self._flush())
        self._flushes.add(task)
        task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushes.discard(task)
        if self._gathering and len(self._flushes) < _LANES:
            self._start_flush()
        if not task.cancelled():
            task.result()  # a defect in _flush must be loud

    async def _flush(self) -> None:
        self._refuse_late()
        batch, self._gathering = self._gathering[:MAX_BATCH], self._gathering[MAX_BATCH:]
        if not batch:
            return
        batch.sort(key=lambda run: run.contended)
        try:
            await self._run_together(batch)
        finally:
            for run in batch:
                _fail(run.future, asyncio.CancelledError())

    def _refuse_late(self) -> None:
        oldest = asyncio.get_running_loop().time() - MAX_WAIT_S
        late = [run for run in self._gathering if run.asked_at < oldest]
        self._gathering = self._gathering[len(late) :]
        error = PostgresUnavailable("Postgres does not keep up: the write was not sent")
        for run in late:
            _fail(run.future, error)

    async def _run_together(self, batch: list[_Run]) -> None:
        try:
            rows = await self._database.fetch_each(self._query, [run.args for run in batch])
        except asyncpg.PostgresError:
            await self._run_one_by_one(batch)
        except PostgresUnavailable as error:
            for run in batch:
                _fail(run.future, error)
        else:
            found = {row["id"]: row for row in rows}
            for run in batch:
                _answer(run.future, found.get(run.args[0]))

    async def _run_one_by_one(self, batch: list[_Run]) -> None:
        for index, run in enumerate(batch):
            try:
                row = await self._database.fetch_one(self._query, *run.args)
            except asyncpg.PostgresError as error:
                _fail(run.future, error)
            except PostgresUnavailable as error:
                for rest in batch[index:]:
                    _fail(rest.future, error)
                return
            else:
                _answer(run.future, row)


def _answer(future: asyncio.Future[asyncpg.Record | None], row: asyncpg.Record | None) -> None:
    if not future.done():
        future.set_result(row)


def _fail(future: asyncio.Future[asyncpg.Record | None], error: BaseException) -> None:
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)
        future.exception()  # read here: the caller may have gone
