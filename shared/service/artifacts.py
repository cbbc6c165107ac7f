"""Artifacts of a tenant: JSON, texts and files that never change.

Those made from the files of messages are private: nobody but their creator sees them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import IO, Any, Final
from uuid import UUID

import asyncpg
import structlog

from shared.errors import ArtifactNotFound, Forbidden, ObjectStoreUnavailable, StorageFull
from shared.files.object_store import ObjectStore, object_key
from shared.files.spool import Spool
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.storage import StorageQuota
from shared.turn.model import Principal

log = structlog.get_logger(__name__)

LISTED_TEXT_BYTES: Final = 16_384
"""A longer text is left out of lists: a page has 100 artifacts."""
_INLINE_TYPES: Final = {"json": "application/json", "text": "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """What is known of a file that is uploaded to a project."""

    project_id: UUID
    props: dict[str, Any] | None
    is_private: bool
    """The project is its user's alone, and so is the file."""


class ArtifactService:
    """Rows come as records: the surface names their fields its own way."""

    def __init__(self, database: Database, objects: ObjectStore, quota: StorageQuota) -> None:
        self._database = database
        self._quota = quota
        self._objects = objects

    async def create_inline(
        self,
        principal: Principal,
        *,
        kind: str,
        text: str,
        title: str | None,
        action_run_id: UUID | None,
    ) -> asyncpg.Record:
        """An artifact that Postgres keeps: `kind` is `json` or `text`, JSON comes as its text.

        Raises:
            StorageFull: the tenant may not store so much.
        """
        size_bytes = len(text.encode())
        return await self._make(
            principal,
            size_bytes,
            "create_inline_artifact",
            new_id(),
            principal.tenant_id,
            action_run_id,
            kind,
            title,
            _INLINE_TYPES[kind],
            size_bytes,
            text,
            principal.user_id,
        )

    async def create_file(
        self,
        principal: Principal,
        spool: Spool,
        *,
        name: str | None,
        title: str | None,
        project: ProjectFile | None = None,
    ) -> asyncpg.Record:
        """An artifact of a file, whose bytes are stored first.

        An object that no row names, because somebody failed in between, is collected later.

        Raises:
            ObjectStoreUnavailable: the bytes cannot be stored; nothing was made.
            StorageFull: the tenant may not store so much.
        """
        file = await spool.finish()
        await self.require_room(principal, 1, spool.size_bytes)
        kind, sha256 = spool.tell_kind(name), spool.sha256
        key = await self.store(principal, sha256, file)
        row = await self._make(
            principal,
            spool.size_bytes,
            "create_file_artifact",
            new_id(),
            principal.tenant_id,
            title,
            name,
            kind.mime_type,
            spool.size_bytes,
            sha256,
            key,
            kind.reader,
            principal.user_id,
            None if project is None else project.project_id,
            None if project is None else project.props,
            project is not None and project.is_private,
        )
        if row["object_key"] != key:  # somebody else has stored the same at this moment
            await self._discard(key)
        return row

    async def require_room(self, principal: Principal, count: int, size_bytes: int) -> None:
        """Asked before bytes are stored; who makes rows asks again, and then it holds.

        Raises:
            StorageFull: so many artifacts of so many bytes would be too much.
        """

        async def look(transaction: Transaction) -> None:
            await self._quota.require_room(transaction, principal.tenant_id, count, size_bytes)

        await self._database.for_tenant(principal).run_in_transaction(look)

    async def has_room(self, principal: Principal, count: int, size_bytes: int) -> bool:
        """Whether `require_room` raises nothing."""
        try:
            await self.require_room(principal, count, size_bytes)
        except StorageFull:
            return False
        return True

    async def store(self, principal: Principal, sha256: bytes, file: IO[bytes]) -> str:
        """The key under which the tenant has this content, stored if it was not yet."""
        known = await self._database.for_tenant(principal).fetch_one(
            "find_stored_file", principal.tenant_id, sha256
        )
        if known is not None:
            return str(known["object_key"])
        key = object_key(principal.tenant_id, sha256)
        await self._objects.put(key, file)
        return key

    async def get(self, principal: Principal, artifact_id: UUID) -> asyncpg.Record:
        """One artifact with its content, or the key of it.

        Raises:
            ArtifactNotFound: unknown, another tenant's, or another user's private one.
        """
        return _found(
            await self._database.for_tenant(principal).fetch_one(
                "get_artifact", artifact_id, principal.tenant_id, principal.user_id
            )
        )

    def read(self, row: Any) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of a file."""
        return self._objects.read(row["object_key"])

    async def list_artifacts(
        self,
        principal: Principal,
        *,
        action_run_id: UUID | None,
        kind: str | None,
        limit: int,
        offset: int,
    ) -> tuple[Sequence[asyncpg.Record], int]:
        """A page of those that the caller may see, newest first, and how many there are in all."""
        tenant_id, user_id = principal.tenant_id, principal.user_id

        async def read(transaction: Transaction) -> tuple[list[asyncpg.Record], int]:
            rows = await transaction.fetch_many(
                "list_artifacts",
                tenant_id,
                action_run_id,
                kind,
                offset,
                limit,
                LISTED_TEXT_BYTES,
                user_id,
            )
            counted = await transaction.fetch_one(
                "count_artifacts", tenant_id, action_run_id, kind, user_id
            )
            return rows, 0 if counted is None else counted["total"]

        return await self._database.for_tenant(principal).run_in_transaction(read)

    async def delete(self, principal: Principal, artifact_id: UUID) -> None:
        """Hides an artifact, and detaches it from all threads it is attached to, whosoever.

        What it took is given back when it is purged (`worker/jobs.py`).

        Raises:
            ArtifactNotFound: as in `get`.
            Forbidden: the caller may see it, but somebody else has made it.
        """
        who = (principal.tenant_id, principal.user_id)

        async def hide(transaction: Transaction) -> None:
            if await transaction.fetch_one("delete_artifact", artifact_id, *who) is None:
                _found(await transaction.fetch_one("get_artifact", artifact_id, *who))
                raise Forbidden("Only who has made an artifact may delete it")
            await transaction.go_on_as_engine()
            await transaction.fetch_many("detach_artifact", artifact_id, principal.tenant_id)

        await self._database.for_tenant(principal).run_in_transaction(hide)

    async def _make(
        self, principal: Principal, size_bytes: int, query: str, *arguments: Any
    ) -> asyncpg.Record:
        async def write(transaction: Transaction) -> asyncpg.Record:
            await self._quota.require_room(transaction, principal.tenant_id, 1, size_bytes)
            return _found(await transaction.fetch_one(query, *arguments))

        return await self._database.for_tenant(principal).run_in_transaction(write)

    async def _discard(self, key: str) -> None:
        try:
            await self._objects.delete(key)
        except ObjectStoreUnavailable as error:  # it is collected later
            log.warning("object.not_discarded", error=str(error))


def _found(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise ArtifactNotFound
    return row
