"""How much a tenant may store: a number of artifacts, their bytes, attachments of a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from uuid import UUID

from shared.errors import StorageFull, TooManyAttachments
from shared.postgres.transaction import Transaction
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class StorageQuota:
    """0 is no limit. A deleted artifact counts until it is purged."""

    max_artifacts: int = 0
    max_bytes: int = 0
    max_attachments: int = 0
    """Of a thread."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits of a deployment."""
        return cls(
            settings.max_artifacts_per_tenant,
            settings.max_stored_bytes_per_tenant,
            settings.max_attachments_per_thread,
        )

    async def require_room(
        self, transaction: Transaction, tenant_id: UUID, count: int, size_bytes: int
    ) -> None:
        """Until the commit nobody else of the tenant makes artifacts, so what fits now will fit.

        Raises:
            StorageFull: so many artifacts of so many bytes would be too much.
        """
        if not self.max_artifacts and not self.max_bytes:
            return
        use = await transaction.fetch_one("lock_storage_use", tenant_id)
        if use is None:  # an upsert returns its row
            return
        if 0 < self.max_artifacts < use["artifact_count"] + count:
            raise StorageFull(f"more than {self.max_artifacts} artifacts")
        if 0 < self.max_bytes < use["size_bytes"] + size_bytes:
            raise StorageFull(f"more than {self.max_bytes} bytes of artifacts")

    def require_place(self, attached: int, more: int) -> None:
        """Raises `TooManyAttachments` where a thread with so many would have too many."""
        if 0 < self.max_attachments < attached + more:
            raise TooManyAttachments(self.max_attachments)
