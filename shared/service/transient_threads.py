"""Threads for one turn, which nobody finds: what a chat without a thread runs in.

Once its turn has ended, what was said in one is deleted. Whoever asked does that when they have the
answer; the sweeper does it where nobody did.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.turn.model import Principal


class TransientThreads:
    """Raises the errors of `shared.errors`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, principal: Principal, thread_id: UUID) -> None:
        """A thread for one turn."""
        await self._database.for_tenant(principal).fetch_one(
            "create_transient_thread", thread_id, principal.tenant_id, principal.user_id
        )

    async def remove(self, thread_id: UUID) -> None:
        """Removes a thread whose turn has ended, or that has none; does nothing before."""
        await remove_transient_threads(self._database, [thread_id])


async def remove_transient_threads(database: Database, thread_ids: Sequence[UUID]) -> None:
    """Removes those of these threads whose turns have ended."""

    async def work(transaction: Transaction) -> None:
        locked = await transaction.fetch_many("lock_transient_threads", list(thread_ids))
        # Another statement: it sees a turn that was accepted while the lock was awaited.
        await transaction.fetch_many("remove_transient_threads", [row["id"] for row in locked])

    await database.run_in_transaction(work)
