"""Messages that a request brings along before its own: of no turn, and before the first one."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.ids import new_id
from shared.postgres.transaction import Transaction
from shared.turn.messages import preview
from shared.turn.model import Given, Principal


async def add_given(
    transaction: Transaction, principal: Principal, thread_id: UUID, given: Sequence[Given]
) -> None:
    """Adds them to a thread that is locked, or not to be seen yet."""
    shown = [message.content for message in given if message.role in ("user", "assistant")]
    await transaction.fetch_one(
        "add_messages",
        principal.tenant_id,
        principal.user_id,
        thread_id,
        [new_id() for _ in given],
        [message.role for message in given],
        [message.content for message in given],
        preview(shown[-1]) if shown else None,
    )
