"""Threads as the surfaces beside the primary one use them: shared, with messages of no turn.

Whoever may use a shared thread acts with its owner's rights: `find_owner` says as whom, and every
other service takes that principal. A thread has one owner for as long as it lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from shared.errors import ConcurrencyConflict, MessageNotFound, ThreadNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.cancel import CancelService
from shared.service.hidden_messages import forget_hidden
from shared.turn.messages import preview
from shared.turn.model import Principal
from shared.turn.state import ACTIVE, TurnStatus

Role = Literal["user", "assistant", "system", "tool"]
_CLEAR_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored as it is. `raw` is one pydantic-ai ModelMessage, None: text alone."""

    role: Role
    content: str
    raw: dict[str, Any] | None = None
    details: dict[str, Any] | None = None
    """What the surface keeps of it beside its text."""


class SharedThreads:
    """Raises the errors of `shared.errors`."""

    def __init__(self, database: Database, cancels: CancelService) -> None:
        self._database = database
        self._cancels = cancels

    async def find_owner(self, principal: Principal, thread_id: UUID) -> Principal:
        """Whom the principal acts as in a thread that is their own or shared.

        Raises:
            ThreadNotFound: unknown, deleted, or private to somebody else.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "find_thread_owner", thread_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise ThreadNotFound
        return principal.acting_as(row["user_id"])

    async def append(
        self, owner: Principal, thread_id: UUID, message: NewMessage
    ) -> asyncpg.Record:
        """Stores a message behind the others; runs no model.

        Raises:
            ThreadNotFound: unknown, deleted or not the owner's.
        """
        row = await self._database.for_tenant(owner).fetch_one(
            "append_message",
            new_id(),
            owner.tenant_id,
            thread_id,
            owner.user_id,
            message.role,
            message.content,
            "text" if message.raw is None else "pydantic_ai",
            message.raw,
            message.details,
            preview(message.content) if message.role in ("user", "assistant") else None,
            (owner.acts_for or owner.user_id) if message.role == "user" else None,
        )
        if row is None:
            raise ThreadNotFound
        return row

    async def get_message(
        self, owner: Principal, thread_id: UUID, message_id: UUID
    ) -> asyncpg.Record:
        """One message of a thread that was found before.

        Raises:
            MessageNotFound: unknown, deleted, or of another thread.
        """
        row = await self._database.for_tenant(owner).fetch_one(
            "get_message", message_id, owner.tenant_id, thread_id
        )
        if row is None:
            raise MessageNotFound
        return row

    async def count_messages(self, owner: Principal, thread_id: UUID) -> int:
        """How many messages a thread has."""
        row = await self._database.for_tenant(owner).fetch_one(
            "count_messages", owner.tenant_id, thread_id
        )
        return 0 if row is None else int(row["total"])

    async def delete_message(self, owner: Principal, thread_id: UUID, message_id: UUID) -> None:
        """Makes one message disappear with what is attached to it; the thread tells what is left.

        Raises:
            ThreadNotFound: unknown, deleted or not the owner's.
            MessageNotFound: unknown, deleted, or of another thread.
            ConcurrencyConflict: the turn it belongs to is not over.
        """

        async def work(transaction: Transaction) -> None:
            await self._lock(transaction, owner, thread_id)
            row = await transaction.fetch_one("get_message", message_id, owner.tenant_id, thread_id)
            if row is None:
                raise MessageNotFound
            await self._require_over(transaction, owner, row["turn_id"])
            await transaction.fetch_one("hide_message", message_id, owner.tenant_id, thread_id)
            await forget_hidden(transaction, owner, thread_id, [message_id])

        await self._database.for_tenant(owner).run_in_transaction(work)

    async def clear(self, owner: Principal, thread_id: UUID) -> None:
        """Cancels what is active, then makes all messages disappear; the thread stays.

        What is attached to the messages goes along, what is attached to the thread does not.

        Raises:
            ThreadNotFound: unknown, deleted or not the owner's.
            ConcurrencyConflict: turns go on being submitted meanwhile.
        """
        active_turn_id = None
        for _ in range(_CLEAR_TRIES):
            await self._cancels.cancel_all_of_thread(owner, thread_id)
            active_turn_id = await self._clear_if_idle(owner, thread_id)
            if active_turn_id is None:
                return
        raise ConcurrencyConflict(str(active_turn_id))

    async def _clear_if_idle(self, owner: Principal, thread_id: UUID) -> UUID | None:
        """Hides the messages unless a turn came in between; that turn's id then."""

        async def work(transaction: Transaction) -> UUID | None:
            await self._lock(transaction, owner, thread_id)
            active = await transaction.fetch_one(
                "find_active_turn_of_thread", owner.tenant_id, owner.user_id, thread_id
            )
            if active is not None:
                active_turn_id: UUID = active["id"]
                return active_turn_id
            await transaction.fetch_one("hide_messages", owner.tenant_id, thread_id)
            await forget_hidden(transaction, owner, thread_id, None)
            return None

        return await self._database.for_tenant(owner).run_in_transaction(work)

    @staticmethod
    async def _require_over(
        transaction: Transaction, owner: Principal, turn_id: UUID | None
    ) -> None:
        """Raises `ConcurrencyConflict` while the message's turn is active: it still needs it."""
        if turn_id is None:
            return
        turn = await transaction.fetch_one("get_turn", turn_id, owner.tenant_id, owner.user_id)
        if turn is not None and TurnStatus(turn["status"]) in ACTIVE:
            raise ConcurrencyConflict(str(turn_id))

    @staticmethod
    async def _lock(transaction: Transaction, owner: Principal, thread_id: UUID) -> None:
        row = await transaction.fetch_one("lock_thread", thread_id, owner.tenant_id, owner.user_id)
        if row is None:
            raise ThreadNotFound
