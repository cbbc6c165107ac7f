"""Attachments: artifacts that the agents of a thread, or of one message's turn, may read."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import asyncpg

from shared.errors import (
    ArtifactNotFound,
    AttachmentNotFound,
    MessageNotFound,
    ThreadNotFound,
)
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.storage import StorageQuota
from shared.turn.ingestion import IngestionStatus
from shared.turn.model import Principal


class AttachmentService:
    """Rows come as records. `ring` tells the workers that there is something to read."""

    def __init__(self, database: Database, quota: StorageQuota, ring: Callable[[], None]) -> None:
        self._database = database
        self._quota = quota
        self._ring = ring

    def ring(self) -> None:
        """Tells the workers that there is something to read."""
        self._ring()

    async def attach(
        self, principal: Principal, thread_id: UUID, artifact_id: UUID, message_id: UUID | None
    ) -> tuple[asyncpg.Record, bool]:
        """The attachment, and whether this call made it.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
            ArtifactNotFound: unknown, another tenant's, or another user's private one.
            MessageNotFound: not a message of this thread.
            TooManyAttachments: it is not attached yet, and the thread has as many as it may.
        """
        tenant_id, user_id = principal.tenant_id, principal.user_id

        async def work(transaction: Transaction) -> tuple[asyncpg.Record | None, bool]:
            thread = await transaction.fetch_one("lock_thread", thread_id, tenant_id, user_id)
            if thread is None:
                raise ThreadNotFound
            if not await transaction.fetch_one("lock_artifact", artifact_id, tenant_id, user_id):
                raise ArtifactNotFound
            if message_id is not None and not await transaction.fetch_one(
                "find_message_of_thread", message_id, tenant_id, thread_id
            ):
                raise MessageNotFound
            known = await transaction.fetch_one(
                "find_attachment", tenant_id, thread_id, artifact_id, message_id
            )
            if known is None:
                self._quota.require_place(thread["attachment_count"], 1)
            made = await transaction.fetch_one(
                "create_attachment",
                new_id(),
                tenant_id,
                thread_id,
                artifact_id,
                message_id,
                user_id,
            )
            known = made or known
            row = known and await transaction.fetch_one(
                "get_attachment", known["id"], tenant_id, user_id
            )
            return row, made is not None

        row, is_new = await self._database.for_tenant(principal).run_in_transaction(work)
        found = _found(row)
        if found["ingestion_status"] == IngestionStatus.PENDING:
            self._ring()
        return found, is_new

    async def get(self, principal: Principal, attachment_id: UUID) -> asyncpg.Record:
        """One attachment.

        Raises:
            AttachmentNotFound: unknown, deleted, or in a thread that is not the caller's or gone.
        """
        return _found(
            await self._database.for_tenant(principal).fetch_one(
                "get_attachment", attachment_id, principal.tenant_id, principal.user_id
            )
        )

    async def list_attachments(
        self, principal: Principal, thread_id: UUID, *, limit: int, offset: int
    ) -> list[asyncpg.Record]:
        """A page of a thread's attachments, oldest first; of no thread of the caller's none."""
        return await self._database.for_tenant(principal).fetch_many(
            "list_attachments", principal.tenant_id, principal.user_id, thread_id, offset, limit
        )

    async def delete(self, principal: Principal, attachment_id: UUID) -> None:
        """Detaches; the artifact stays.

        Raises:
            AttachmentNotFound: as in `get`.
        """
        _found(
            await self._database.for_tenant(principal).fetch_one(
                "delete_attachment", attachment_id, principal.tenant_id, principal.user_id
            )
        )


def _found(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AttachmentNotFound
    return row
