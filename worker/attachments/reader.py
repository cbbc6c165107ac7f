"""What tools read of a turn's attachments: names without texts, parts of one text, one at a time.

A thread may have 50 texts of megabytes each, and a model may call tools many times at once: so a
worker has few texts in hand at any moment, whoever asks, and looks through them beside its loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from shared.postgres.pool import Database
from shared.turn.attached import AttachedName, AttachedPart
from worker.attachments.shown import MAX_ATTACHMENTS

TEXTS_AT_ONCE: Final = 2
"""Of a worker; its connections serve the ends and heartbeats of its turns as well."""
MAX_TEXT_CHARS: Final = 8_000_000
"""Of one text that is looked through."""
_MAX_OFFSET: Final = 1_000_000_000

T = TypeVar("T")


class Reader(Protocol):
    """Whose attachments: a turn's."""

    @property
    def tenant_id(self) -> UUID: ...
    @property
    def user_id(self) -> UUID: ...
    @property
    def thread_id(self) -> UUID: ...
    @property
    def input_message_id(self) -> UUID | None: ...


class AttachmentReader:
    """Of one turn. `seats` are the worker's. Every method raises `PostgresUnavailable`."""

    def __init__(self, database: Database, seats: asyncio.Semaphore, reader: Reader) -> None:
        self._statements = database.for_tenant(reader)
        self._seats = seats
        self._whose = (
            reader.tenant_id,
            reader.user_id,
            reader.thread_id,
            reader.input_message_id,
        )

    async def find(self, name: str) -> AttachedName | None:
        """The attachment of this name or id, those of the turn's own message first."""
        found = await self._list(name, 1)
        return found[0] if found else None

    async def list_names(self) -> Sequence[AttachedName]:
        """The thread's and the turn's own message's, at most `MAX_ATTACHMENTS`."""
        return await self._list(None, MAX_ATTACHMENTS)

    async def read(self, attachment_id: UUID, offset: int, max_chars: int) -> AttachedPart | None:
        """A part of the text; None when the attachment is gone."""
        async with self._seats:
            return await self._read(attachment_id, min(offset, _MAX_OFFSET), max_chars)

    async def scan(self, attachment_id: UUID, scan: Callable[[str], T]) -> T | None:
        """What `scan`, run in a thread, makes of the text; None when the attachment is gone."""
        async with self._seats:
            part = await self._read(attachment_id, 0, MAX_TEXT_CHARS)
            return None if part is None else await asyncio.to_thread(scan, part.text)

    async def _list(self, name: str | None, most: int) -> list[AttachedName]:
        rows = await self._statements.fetch_many("list_attached_names", *self._whose, name, most)
        return [AttachedName(row["id"], row["name"], row["size_bytes"]) for row in rows]

    async def _read(self, attachment_id: UUID, offset: int, max_chars: int) -> AttachedPart | None:
        row: Any = await self._statements.fetch_one(
            "read_attached_text", *self._whose, attachment_id, offset, max_chars
        )
        return row and AttachedPart(row["text"], row["total_chars"], row["is_cut"])
