"""Named queries inside one open transaction."""

from __future__ import annotations

from typing import Any

import asyncpg

from shared.postgres.queries import Role, sql


class Transaction:
    """Handed out by `run_in_transaction`. Runs the statements of one role only."""

    def __init__(self, connection: Any, role: Role) -> None:
        self._connection = connection
        self._role: Role = role

    async def fetch_one(self, name: str, *args: Any) -> asyncpg.Record | None:
        """First row of the named query, or None."""
        row: asyncpg.Record | None = await self._connection.fetchrow(sql(name, self._role), *args)
        return row

    async def fetch_many(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of the named query."""
        rows: list[asyncpg.Record] = await self._connection.fetch(sql(name, self._role), *args)
        return rows

    async def go_on_as_engine(self) -> None:
        """Leaves the tenant's role: the rest of the transaction is the engine's."""
        await self._connection.execute("reset role")
        self._role = "engine"
