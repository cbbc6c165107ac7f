"""Accepting a turn: what the statement wants, and the transaction of one that is accepted alone.

Most turns are accepted many at a time, by one statement. Where more is to be looked at or written
than a turn's own rows, it has a transaction to itself.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from shared.errors import (
    AgentSpecNotFound,
    ArtifactNotFound,
    ConcurrencyConflict,
    StorageFull,
    ThreadMovedOn,
    ThreadNotFound,
)
from shared.ids import new_id
from shared.postgres.batches import as_elements, columns
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.given_messages import add_given
from shared.service.storage import StorageQuota
from shared.turn.messages import preview, title
from shared.turn.model import ConflictPolicy, NewTurn


class _NotAccepted(Exception):
    """The idempotency key was used meanwhile, or the thread is gone: nothing is to stay."""


def accept_arguments(new: NewTurn, queue_ttl_s: float) -> tuple[Any, ...]:
    """What `accept_turns` wants to know of one turn."""
    return (
        new.id,
        new.principal.tenant_id,
        new.principal.user_id,
        new.thread_id,
        new.input_message_id,
        new.planned_output_message_id,
        new.text,
        new.raw_message,
        new.model_id,
        new.settings,
        new.system_prompt,
        new.concurrency_key,
        new.idempotency_scope,
        new.idempotency_key,
        new.fingerprint,
        new.client_chose_key,
        queue_ttl_s,
        preview(new.text),
        title(new.text),
        new.names_model,
    )


async def accept_alone(
    database: Database, quota: StorageQuota, new: NewTurn, queue_ttl_s: float
) -> Any:
    """The row of the accepted turn; None when the idempotency key was used before.

    Raises:
        ThreadNotFound: the thread is gone or not the caller's.
        ThreadMovedOn: the turn `new` follows is not the newest of the thread; or there is one,
            before which the messages that `new` brings along would have no place.
        ConcurrencyConflict: `reject`, and the key has an active turn.
        StorageFull: there is no room for the message's files.
        TooManyAttachments: the thread has none for those, or for the message's artifacts.
        ArtifactNotFound: an artifact of the message is gone, or not the thread's user's to see.
        AgentSpecNotFound: the turn's own agent spec is gone.
    """
    tenant_id, user_id = new.principal.tenant_id, new.principal.user_id

    async def accept(transaction: Transaction) -> Any:
        if new.makes_thread:
            await transaction.fetch_one("create_thread_once", new.thread_id, tenant_id, user_id)
        # First: a conflict would tell a stranger that somebody else's thread is busy.
        if not await transaction.fetch_one("get_thread", new.thread_id, tenant_id, user_id):
            raise ThreadNotFound
        await transaction.fetch_one("lock_concurrency_key", tenant_id, new.concurrency_key)
        known = await transaction.fetch_one(
            "find_idempotent_turn", tenant_id, new.idempotency_scope, new.idempotency_key
        )
        if known is not None:
            return None
        await _require_newest(transaction, new)
        if new.conflict_policy is ConflictPolicy.REJECT:
            await require_idle_key(transaction, new)
        if new.files or new.artifact_ids:
            await _require_room(transaction, quota, new)
        if new.given:
            await _begin_with_given(transaction, new)
        await transaction.go_on_as_engine()
        accepted = await transaction.fetch_one(
            "accept_turns", *columns([as_elements(accept_arguments(new, queue_ttl_s))])
        )
        if accepted is None:
            raise _NotAccepted
        return await _add_more(transaction, new, accepted)

    try:
        return await database.for_tenant(new.principal).run_in_transaction(accept)
    except _NotAccepted:
        return None


async def require_idle_key(transaction: Transaction, new: NewTurn) -> None:
    """Raises `ConcurrencyConflict` where the turn's concurrency key has an active turn."""
    tenant_id, user_id = new.principal.tenant_id, new.principal.user_id
    active = await transaction.fetch_one("find_active_turn_of_key", tenant_id, new.concurrency_key)
    if active is not None:
        raise ConcurrencyConflict(str(active["id"]) if active["user_id"] == user_id else None)


async def _lock_thread(transaction: Transaction, new: NewTurn) -> asyncpg.Record:
    locked = await transaction.fetch_one(
        "lock_thread", new.thread_id, new.principal.tenant_id, new.principal.user_id
    )
    if locked is None:
        raise ThreadNotFound
    return locked


async def _require_newest(transaction: Transaction, new: NewTurn) -> None:
    if new.follows is None:
        return
    try:
        thread = await _lock_thread(transaction, new)
    except ThreadNotFound:
        raise ThreadMovedOn from None
    if thread["last_turn_id"] != new.follows:
        raise ThreadMovedOn


async def _require_room(transaction: Transaction, quota: StorageQuota, new: NewTurn) -> None:
    # Locked: what others attach meanwhile counts.
    thread = await _lock_thread(transaction, new)
    more = len(new.files) + len(new.artifact_ids)
    quota.require_place(thread["attachment_count"], more)
    if new.files:
        size_bytes = sum(len(file.data) for file in new.files)
        await quota.require_room(transaction, new.principal.tenant_id, len(new.files), size_bytes)
    if any(file.object_key is None for file in new.files):  # there was no room a moment ago
        raise StorageFull("more than it may store")


async def _begin_with_given(transaction: Transaction, new: NewTurn) -> None:
    thread = await _lock_thread(transaction, new)
    if thread["last_turn_id"] is not None:
        raise ThreadMovedOn
    await add_given(transaction, new.principal, new.thread_id, new.given)


async def _add_more(transaction: Transaction, new: NewTurn, accepted: Any) -> Any:
    """What a turn brings besides its own rows; the accepted row with what that changed."""
    if new.files:
        await transaction.fetch_many("attach_message_files", *_file_arguments(new))
    if new.artifact_ids:
        await _attach_artifacts(transaction, new)
    if new.principal.acts_for is not None:
        await transaction.fetch_one(
            "name_author", new.input_message_id, new.principal.tenant_id, new.principal.acts_for
        )
    if new.agent_spec_id is None:
        return accepted
    return {**accepted, **await _give_agent(transaction, new, new.agent_spec_id)}


async def _attach_artifacts(transaction: Transaction, new: NewTurn) -> None:
    attached = await transaction.fetch_many(
        "attach_message_artifacts",
        new.principal.tenant_id,
        new.principal.user_id,
        new.thread_id,
        new.input_message_id,
        [new_id() for _ in new.artifact_ids],
        list(new.artifact_ids),
    )
    if len(attached) < len(new.artifact_ids):
        raise ArtifactNotFound


async def _give_agent(
    transaction: Transaction, new: NewTurn, agent_spec_id: UUID
) -> asyncpg.Record:
    row = await transaction.fetch_one(
        "give_turn_agent", new.id, new.principal.tenant_id, agent_spec_id, new.model_id
    )
    if row is None:
        raise AgentSpecNotFound
    return row


def _file_arguments(new: NewTurn) -> tuple[Any, ...]:
    files = new.files
    return (
        new.principal.tenant_id,
        new.principal.user_id,
        new.thread_id,
        new.input_message_id,
        [new_id() for _ in files],
        [new_id() for _ in files],
        [file.sha256 for file in files],
        [file.object_key for file in files],
        [len(file.data) for file in files],
        [file.reader for file in files],
        [file.name for file in files],
        [file.mime_type for file in files],
    )
