"""Accepting a turn that answers a message anew, in the place of what was said after that message.

The thread must be idle: its lock and "no active turn" together mean that no answer is on its way
that would land behind the messages hidden here. What the new turn replaces is hidden in the commit
that accepts it, and comes back in the commit that ends it without an answer to keep
(`settle_replacement` in the schema).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from shared.errors import ConcurrencyConflict, MessageNotFound, ThreadNotFound
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.accept import require_idle_key
from shared.turn.messages import preview
from shared.turn.model import ConflictPolicy, NewTurn
from shared.turn.preceding import PRECEDED


async def accept_regenerated(database: Database, new: NewTurn, queue_ttl_s: float) -> Any:
    """The row of the accepted turn; None when the idempotency key was used before.

    Raises:
        ThreadNotFound: the thread is gone or not the caller's.
        MessageNotFound: it has no such message, or none at all.
        ConcurrencyConflict: it has an active turn; or `reject`, and the key has one.
    """
    tenant_id, user_id = new.principal.tenant_id, new.principal.user_id

    async def accept(transaction: Transaction) -> Any:
        if new.conflict_policy is ConflictPolicy.REJECT:
            # Before the thread, as an accept that is alone: two that lock the other way round wait
            # for each other.
            await transaction.fetch_one("lock_concurrency_key", tenant_id, new.concurrency_key)
        if await transaction.fetch_one("lock_thread", new.thread_id, tenant_id, user_id) is None:
            raise ThreadNotFound
        known = await transaction.fetch_one(
            "find_idempotent_turn", tenant_id, new.idempotency_scope, new.idempotency_key
        )
        if known is not None:
            return None
        active = await transaction.fetch_one(
            "find_active_turn_of_thread", tenant_id, user_id, new.thread_id
        )
        # A second click names the message that the first one has hidden: busy, not unknown.
        if active is not None:
            raise ConcurrencyConflict(str(active["id"]))
        exchange = await _find_exchange(transaction, new)
        if exchange is None:
            raise MessageNotFound
        if new.conflict_policy is ConflictPolicy.REJECT:
            await require_idle_key(transaction, new)
        await transaction.go_on_as_engine()
        return await transaction.fetch_one(
            "accept_regenerated_turn",
            new.id,
            tenant_id,
            user_id,
            new.thread_id,
            exchange["turn_id"],
            new.planned_output_message_id,
            new.model_id,
            new.settings | ({PRECEDED: True} if exchange["is_preceded"] else {}),
            new.system_prompt,
            new.concurrency_key,
            new.idempotency_scope,
            new.idempotency_key,
            new.fingerprint,
            new.client_chose_key,
            queue_ttl_s,
            preview(exchange["content"]),
            exchange["input_message_id"],
            new.names_model,
        )

    return await database.for_tenant(new.principal).run_in_transaction(accept)


async def _find_exchange(transaction: Transaction, new: NewTurn) -> Any:
    tenant_id = new.principal.tenant_id
    if new.redo is not None and new.redo.message_id is not None:
        try:
            message_id = UUID(new.redo.message_id)
        except ValueError:
            return None  # an id of the client's own
    else:
        newest = await transaction.fetch_one("find_newest_message", tenant_id, new.thread_id)
        if newest is None:
            return None
        message_id = newest["id"]
    return await transaction.fetch_one("find_exchange", tenant_id, new.thread_id, message_id)
