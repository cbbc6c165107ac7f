"""What many callers ask for at once goes to Postgres in few batches, each caller with its answer.

No timer: on an idle process a question goes out at the end of its loop tick, on a busy one the
next batch gathers while the one before is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import asyncpg

from shared.errors import PostgresUnavailable

MAX_WAIT_S: Final = 5.0
"""What has waited longer for its batch is refused: Postgres is away, or far behind."""

Answer = asyncpg.Record | None


class Ask(NamedTuple):
    """One caller's question: the arguments of a named query, and where its answer goes."""

    args: tuple[Any, ...]
    asked_at: float
    future: asyncio.Future[Answer]

    def answer(self, row: Answer) -> None:
        """Gives the caller its row; a caller that has gone is no matter."""
        if not self.future.done():
            self.future.set_result(row)

    def fail(self, error: BaseException) -> None:
        """Raises `error` at the caller."""
        if self.future.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(error)
            self.future.exception()  # read here: the caller may have gone


class Batches:
    """Gathers asks and hands them to `send` in the order they came; `send` answers each of them.

    At most `lanes` batches of at most `most` asks are in flight. An ask is never part of a batch
    that was sent before it came.
    """

    def __init__(
        self, send: Callable[[list[Ask]], Awaitable[None]], *, most: int, lanes: int
    ) -> None:
        self._send = send
        self._most = most
        self._lanes = lanes
        self._gathering: list[Ask] = []
        self._flushes: set[asyncio.Task[None]] = set()

    async def ask(self, args: tuple[Any, ...]) -> Answer:
        """The answer to one ask.

        Raises:
            PostgresUnavailable: it waited `MAX_WAIT_S` for its batch.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._gathering.append(Ask(args, loop.time(), future))
        if len(self._flushes) < self._lanes:
            self._start_flush()
        return await future

    def _start_flush(self) -> None:
        task = asyncio.create_task(self._flush())
        self._flushes.add(task)
        task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushes.discard(task)
        if self._gathering and len(self._flushes) < self._lanes:
            self._start_flush()
        if not task.cancelled():
            task.result()  # a defect in _flush must be loud

    async def _flush(self) -> None:
        self._refuse_late()
        batch, self._gathering = self._gathering[: self._most], self._gathering[self._most :]
        if not batch:
            return
        try:
            await self._send(batch)
        finally:
            for ask in batch:
                ask.fail(asyncio.CancelledError())

    def _refuse_late(self) -> None:
        oldest = asyncio.get_running_loop().time() - MAX_WAIT_S
        late = [ask for ask in self._gathering if ask.asked_at < oldest]
        self._gathering = self._gathering[len(late) :]
        error = PostgresUnavailable("Postgres does not keep up: the question was not sent")
        for ask in late:
            ask.fail(error)
