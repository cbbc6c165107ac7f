"""A part of a list, and how many there are in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg

from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.turn.model import Principal

P = TypeVar("P")
TimeAndId = tuple[datetime, UUID]
"""The place of a row in a list by time."""


@dataclass(frozen=True, slots=True)
class Slice(Generic[P]):
    """Which part of a list is read: behind `place`, in the list's order or against it.

    Against it, the rows come in the reverse order.
    """

    place: P | None
    is_backwards: bool
    skipped: int
    most: int


def slice_by_time(part: Slice[TimeAndId]) -> tuple[Any, ...]:
    """A slice as the last arguments of a query that lists by time and id."""
    at, row_id = part.place or (None, None)
    return at, row_id, part.is_backwards, part.skipped, part.most


async def read_slice(
    database: Database,
    principal: Principal,
    queries: tuple[str, str],
    where: Sequence[Any],
    part: Sequence[Any],
) -> tuple[list[asyncpg.Record], int]:
    """The rows of a slice, and how many there are in all, as of one transaction.

    `queries` list and count; both take `where`, the first one `part` behind it.
    """
    listing, counting = queries

    async def read(transaction: Transaction) -> tuple[list[asyncpg.Record], int]:
        rows = await transaction.fetch_many(listing, *where, *part)
        count = await transaction.fetch_one(counting, *where)
        return rows, 0 if count is None else count["total"]

    return await database.for_tenant(principal).run_in_transaction(read)
