"""The only door to Postgres: named queries over a bounded pool, every wait with a deadline.

A driver call is never cancelled half-way: it runs in a task that finishes (or times out) even when
the request that asked is gone, so that no connection goes back in an unknown state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar

import asyncpg
import orjson
import structlog

from shared.errors import PostgresBusy, PostgresUnavailable
from shared.postgres.queries import sql
from shared.postgres.tenant import Owner, TenantDatabase
from shared.postgres.transaction import Transaction

log = structlog.get_logger(__name__)
T = TypeVar("T")

ACQUIRE_TIMEOUT_S: Final = 1.0
STATEMENT_TIMEOUT_S: Final = 5.0
_CALL_TIMEOUT_S: Final = ACQUIRE_TIMEOUT_S + STATEMENT_TIMEOUT_S + 1.0
SERVER_SETTINGS: Final = {
    "application_name": "turnkeep",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S:g}s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    # A plan is made once per connection and serves for hours, while tables grow from nothing: never
    # one that is cheap on a small table only.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",  # it would lock rows in the order of the disk
    "jit": "off",
}
# Postgres itself answered, but it is not able to serve: as good as gone for the caller.
_UNAVAILABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver met an end of its connection in mid-step
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    TimeoutError,
)
# Postgres serves; this transaction was undone in favour of another one.
_BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)


class Database:
    """Named queries (`shared/postgres/sql`) over one pool.

    Its own methods run the engine's statements, `for_tenant` those that serve one principal.
    Every method raises `PostgresUnavailable` when Postgres cannot serve within the deadline, its
    kind `PostgresBusy` when other transactions stood in the way and nothing was written; other
    `asyncpg.PostgresError`s (a broken constraint, say) pass through. An argument that the driver
    cannot send is one of them, `asyncpg.DataError`: it would not help to try again.
    """

    def __init__(self, dsn: str, *, size: int) -> None:
        self._dsn = dsn
        self._size = size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._calls: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for calls under way (at most their own deadline), then closes the connections."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=_CALL_TIMEOUT_S)
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(2):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def fetch_one(self, name: str, *args: Any) -> asyncpg.Record | None:
        """First row of the named query, or None."""
        return await self._call(lambda c: c.fetchrow(sql(name, "engine"), *args))

    async def fetch_many(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of the named query."""
        return await self._call(lambda c: c.fetch(sql(name, "engine"), *args))

    async def run_in_transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `work` in one transaction and commits it."""

        async def call(connection: Any) -> T:
            async with connection.transaction():
                return await work(Transaction(connection, "engine"))

        return await self._call(call)

    def for_tenant(self, owner: Owner) -> TenantDatabase:
        """The statements that serve `owner`: whatever they ask for, they see its tenant only."""
        return TenantDatabase(self._call, owner)

    async def ping(self) -> None:
        """Raises `PostgresUnavailable` unless Postgres answers."""
        await self._call(lambda c: c.fetchval("select 1"))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that nobody may cancel: calls in it need none of their own; `close` waits."""
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._forget)
        return task

    async def _call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        if asyncio.current_task() in self._calls:
            return await self._run(work)
        return await asyncio.shield(self.start(self._run(work)))

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that an abandoned call does not warn

    async def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        last = loop.time() + _CALL_TIMEOUT_S
        try:
            # One timer for all waits; the driver's own for `acquire` would cost a task.
            async with asyncio.timeout_at(last) as deadline:
                pool = self._pool or await self._open()
                deadline.reschedule(min(last, loop.time() + ACQUIRE_TIMEOUT_S))
                connection = await pool.acquire()
                try:
                    if not deadline.expired():
                        deadline.reschedule(last)
                    return await work(connection)
                finally:
                    await pool.release(connection, timeout=ACQUIRE_TIMEOUT_S)
        except _BUSY as error:
            raise PostgresBusy(f"Other transactions are in the way: {error!r}") from error
        except _UNAVAILABLE as error:
            raise PostgresUnavailable(f"Postgres does not serve: {error!r}") from error

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=1,
                    max_size=self._size,
                    timeout=ACQUIRE_TIMEOUT_S * 2,
                    command_timeout=STATEMENT_TIMEOUT_S + 0.5,
                    max_inactive_connection_lifetime=300,
                    server_settings=SERVER_SETTINGS,
                    init=_teach_json,
                    reset=_keep_session,
                )
            return self._pool


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """One plain connection, for migrations and set-up."""
    connection = await asyncpg.connect(dsn, timeout=5, command_timeout=60)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def _keep_session(_: Any) -> None:
    """Spares the round trip of asyncpg's own reset: no query here changes its session.

    An open transaction is rolled back by asyncpg before this is called.
    """


async def _teach_json(connection: Any) -> None:
    for type_name in ("json", "jsonb"):
        await connection.set_type_codec(
            type_name,
            encoder=encode_json,
            decoder=orjson.loads,
            schema="pg_catalog",
        )


def encode_json(value: Any) -> str:
    """JSON text for a jsonb parameter. A `str` is taken as JSON already."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
