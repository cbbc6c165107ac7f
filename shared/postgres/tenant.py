"""The second lock of every tenant: statements for one principal, as a role that sees nothing else.

The first lock are the conditions of the queries (`where tenant_id = …`). This one holds without
them: policies in Postgres show the role `turnkeep_tenant` the rows of one tenant, and of `threads`
those of one user. Role and tenant are set for one transaction, never for a session of the pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import asyncpg

from shared.postgres.queries import sql
from shared.postgres.transaction import Transaction

T = TypeVar("T")

_ROLLBACK_TIMEOUT_S: Final = 1.0
# One round trip. The values are written by UUID: they cannot be anything but hexadecimal.
_BEGIN: Final = (
    "begin; set local role turnkeep_tenant;"
    " set local app.tenant = '{}'; set local app.\"user\" = '{}'"
)


class Owner(Protocol):
    """Whose rows may be seen: a principal, or the user whose turn it is."""

    @property
    def tenant_id(self) -> UUID: ...
    @property
    def user_id(self) -> UUID: ...


class TenantDatabase:
    """Tenant statements of one owner. Errors are those of `Database`, which makes it."""

    def __init__(
        self, call: Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]], owner: Owner
    ) -> None:
        self._call = call
        self._begin = _BEGIN.format(UUID(int=owner.tenant_id.int), UUID(int=owner.user_id.int))

    async def fetch_one(self, name: str, *args: Any) -> asyncpg.Record | None:
        """First row of the named query, or None."""
        text = sql(name, "tenant")
        row: asyncpg.Record | None = await self._run(lambda c: c.fetchrow(text, *args))
        return row

    async def fetch_many(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of the named query."""
        text = sql(name, "tenant")
        rows: list[asyncpg.Record] = await self._run(lambda c: c.fetch(text, *args))
        return rows

    async def run_in_transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `work` in one transaction and commits it.

        `work` may be run twice: the first time without effect, when a migration came in between, or
        when Postgres undid it to end a deadlock. So it has no effect but on this transaction.
        """
        return await self._run(lambda c: work(Transaction(c, "tenant")))

    async def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def call(connection: Any) -> T:
            try:
                return await self._run_once(connection, work)
            except (asyncpg.InvalidCachedStatementError, asyncpg.TransactionRollbackError):
                # A migration changed a table, and the driver has forgotten what it had prepared; or
                # a deadlock was ended here, and whoever it was with goes on. All is rolled back.
                return await self._run_once(connection, work)

        result: T = await self._call(call)
        return result

    async def _run_once(self, connection: Any, work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            await connection.execute(self._begin)
            result = await work(connection)
            await connection.execute("commit")
        except BaseException:
            await _roll_back(connection)
            raise
        return result


async def _roll_back(connection: Any) -> None:
    try:
        await connection.execute("rollback", timeout=_ROLLBACK_TIMEOUT_S)
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # the driver met an end of its connection in mid-step
        OSError,
        TimeoutError,
    ):
        connection.terminate()  # nobody can tell its role: it does not go back
