"""What many callers ask for at once goes to Postgres in few batches, each caller with its answer.

No timer: on an idle process a question goes out at the end of its loop tick, on a busy one the
next batch gathers while the one before is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import asyncpg

from shared.errors import PostgresUnavailable
from shared.postgres.pool import encode_json

MAX_WAIT_S: Final = 5.0
"""What has waited longer for its batch is refused: Postgres is away, or far behind."""

T = TypeVar("T")


class Ask(NamedTuple, Generic[T]):
    """One caller's question: the arguments of a named query, and where its answer goes."""

    args: tuple[Any, ...]
    asked_at: float
    future: asyncio.Future[T]

    def answer(self, answer: T) -> None:
        """Gives the caller its answer; a caller that has gone is no matter."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Raises `error` at the caller."""
        if self.future.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(error)
            self.future.exception()  # read here: the caller may have gone


class Batches(Generic[T]):
    """Gathers asks and hands them to `send` in the order they came; `send` answers each of them.

    At most `lanes` batches of at most `most` asks are in flight. An ask is never part of a batch
    that was sent before it came. `start` is `Database.start`: no batch is cancelled with a caller.
    """

    def __init__(
        self,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        send: Callable[[list[Ask[T]]], Awaitable[None]],
        *,
        most: int,
        lanes: int,
    ) -> None:
        self._start = start
        self._send = send
        self._most = most
        self._lanes = lanes
        self._gathering: list[Ask[T]] = []
        self._flushes: set[asyncio.Task[None]] = set()

    def waiting_s(self) -> float:
        """How long the ask has waited that is first in the next batch; 0 when none waits."""
        if not self._gathering:
            return 0.0
        return asyncio.get_running_loop().time() - self._gathering[0].asked_at

    async def ask(self, args: tuple[Any, ...]) -> T:
        """The answer to one ask.

        Raises:
            PostgresUnavailable: it waited `MAX_WAIT_S` for its batch.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._gathering.append(Ask(args, loop.time(), future))
        if len(self._flushes) < self._lanes:
            self._start_flush()
        return await future

    def _start_flush(self) -> None:
        task = self._start(self._flush())
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


def columns(runs: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The arguments of many runs as one array per argument; they are `as_elements` already."""
    return [list(column) for column in zip(*runs, strict=True)]


def as_elements(args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments of a run that can stand in arrays: objects and lists become JSON text.

    The query casts it; the driver would take a list within an array for one more dimension.

    Raises:
        asyncpg.DataError: it cannot be written as JSON.
    """
    try:
        return tuple(encode_json(v) if isinstance(v, dict | list) else v for v in args)
    except TypeError as error:
        raise asyncpg.DataError(str(error)) from error
