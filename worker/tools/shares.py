"""So many calls at once for each tenant: one that makes many waits for itself alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID


@dataclass(slots=True)
class _Share:
    seats: asyncio.Semaphore
    callers: int = 0
    """Who has a seat or waits for one."""


class TenantShares:
    """`most` seats for each tenant in this process; 0 is no limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shares: dict[UUID, _Share] = {}

    @asynccontextmanager
    async def take(self, tenant_id: UUID) -> AsyncIterator[None]:
        """A seat while the block runs; who came first gets the next one."""
        if not self._most:
            yield
            return
        share = self._shares.setdefault(tenant_id, _Share(asyncio.Semaphore(self._most)))
        share.callers += 1
        try:
            async with share.seats:
                yield
        finally:
            share.callers -= 1
            if not share.callers:
                del self._shares[tenant_id]
