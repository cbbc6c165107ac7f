"""What users think of answers: written down once per target, listed for whoever learns from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.errors import InvalidRequest, MessageNotFound, ThreadNotFound, TurnNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.page_cursor import decode_time_and_id, encode_time_and_id
from shared.turn.model import Principal

EXPORT_PAGE: Final = 500
"""Rows of an export that are in memory at a time: 8 MB at most, by the size of a comment."""
_LISTING: Final = "feedback"
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_START: Final = (_LAST, UUID(int=2**128 - 1))


@dataclass(frozen=True, slots=True)
class Opinion:
    """A rating (`positive`, `negative`) of a message, a turn, or a thread as a whole."""

    thread_id: UUID
    message_id: UUID | None
    turn_id: UUID | None
    rating: str
    comment: str | None


@dataclass(frozen=True, slots=True)
class FeedbackFilter:
    """Which rows are asked for; None is any. From `created_after` on, before `created_before`."""

    thread_id: UUID | None = None
    turn_id: UUID | None = None
    message_id: UUID | None = None
    rating: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class FeedbackService:
    """Feedback of one user. Rows come as records: the surface names their fields its own way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, principal: Principal, opinion: Opinion) -> tuple[asyncpg.Record, bool]:
        """Stores an opinion in place of an earlier one of the target; the row, and if it is new.

        An opinion of a message is one of its turn as well.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
            MessageNotFound, TurnNotFound: the thread has no such one.
            InvalidRequest: the message is no answer, or not one of that turn.
        """
        feedback_id = new_id()

        async def put(transaction: Transaction) -> asyncpg.Record:
            target = await _check_target(transaction, principal, opinion)
            row = await transaction.fetch_one(
                "put_feedback",
                feedback_id,
                principal.tenant_id,
                principal.user_id,
                target.thread_id,
                target.turn_id,
                target.message_id,
                target.rating,
                target.comment,
            )
            if row is None:  # an upsert returns its row
                raise ThreadNotFound
            return row

        row = await self._database.for_tenant(principal).run_in_transaction(put)
        return row, row["id"] == feedback_id

    async def list_feedback(
        self, principal: Principal, wanted: FeedbackFilter, *, limit: int, cursor: str | None
    ) -> tuple[list[asyncpg.Record], str | None]:
        """A page of the user's feedback, newest first, and the cursor of the next one."""
        place = decode_time_and_id(cursor, _LISTING) if cursor else _START
        rows = await self._read(principal, wanted, place, limit + 1)
        page = rows[:limit]
        if len(rows) <= limit:
            return page, None
        return page, encode_time_and_id(page[-1]["created_at"], page[-1]["id"], _LISTING)

    async def export(
        self, principal: Principal, wanted: FeedbackFilter
    ) -> AsyncIterator[list[asyncpg.Record]]:
        """All of the user's feedback, newest first, in pages; each is a query of its own."""
        place = _START
        while True:
            rows = await self._read(principal, wanted, place, EXPORT_PAGE)
            if rows:
                yield rows
            if len(rows) < EXPORT_PAGE:
                return
            place = (rows[-1]["created_at"], rows[-1]["id"])

    async def _read(
        self,
        principal: Principal,
        wanted: FeedbackFilter,
        place: tuple[datetime, UUID],
        limit: int,
    ) -> list[asyncpg.Record]:
        return await self._database.for_tenant(principal).fetch_many(
            "list_feedback",
            principal.tenant_id,
            principal.user_id,
            wanted.thread_id,
            wanted.turn_id,
            wanted.message_id,
            wanted.rating,
            wanted.created_after or _FIRST,
            wanted.created_before or _LAST,
            *place,
            limit,
        )


async def _check_target(
    transaction: Transaction, principal: Principal, opinion: Opinion
) -> Opinion:
    """The opinion with the turn of its message filled in."""
    found: Any = await transaction.fetch_one(
        "find_feedback_target",
        principal.tenant_id,
        principal.user_id,
        opinion.thread_id,
        opinion.message_id,
        opinion.turn_id,
    )
    if found is None:
        raise ThreadNotFound
    if opinion.message_id is not None and found["message_id"] is None:
        raise MessageNotFound
    if opinion.turn_id is not None and found["turn_id"] is None:
        raise TurnNotFound
    if opinion.message_id is None:
        return opinion
    if found["message_role"] != "assistant":
        raise InvalidRequest(("body", "messageId"), "Only an assistant's message can be rated")
    if opinion.turn_id not in (None, found["message_turn_id"]):
        raise InvalidRequest(("body", "turnId"), "The message is not of this turn")
    return replace(opinion, turn_id=found["message_turn_id"])
