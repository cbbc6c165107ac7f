"""Keeps a thread consistent after messages of it were hidden."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.postgres.transaction import Transaction
from shared.turn.model import Principal


async def forget_hidden(
    transaction: Transaction, owner: Principal, thread_id: UUID, message_ids: Sequence[UUID] | None
) -> None:
    """Detaches what was attached to the hidden messages; None: to any message of the thread.

    The thread's last message and last turn become the newest ones that are left. The caller holds
    its lock.
    """
    whose = (thread_id, owner.tenant_id, owner.user_id)
    await transaction.fetch_one("detach_from_messages", owner.tenant_id, thread_id, message_ids)
    await transaction.fetch_one("retell_last_message", *whose)
    await transaction.fetch_one("retell_last_turn", *whose)
