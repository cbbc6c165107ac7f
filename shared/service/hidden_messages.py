"""What a thread has attached and tells of itself once messages of it have disappeared."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.postgres.transaction import Transaction
from shared.turn.model import Principal


async def forget_hidden(
    transaction: Transaction, owner: Principal, thread_id: UUID, message_ids: Sequence[UUID] | None
) -> None:
    """Detaches what was attached to hidden messages (None: to all); tells the newest that is left.

    The thread is locked by the caller.
    """
    whose = (thread_id, owner.tenant_id, owner.user_id)
    await transaction.fetch_one("detach_from_messages", owner.tenant_id, thread_id, message_ids)
    await transaction.fetch_one("retell_last_message", *whose)
    await transaction.fetch_one("retell_last_turn", *whose)
