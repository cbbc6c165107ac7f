"""Threads and their messages: create, read, change, list, delete."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg

from shared.errors import ConcurrencyConflict, ThreadNotFound, TurnNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.cancel import CancelService
from shared.service.changes import UNCHANGED, as_flagged
from shared.service.page_cursor import (
    decode_seq,
    decode_time_and_id,
    encode_seq,
    encode_time_and_id,
)
from shared.turn.model import Principal

_DELETE_TRIES: Final = 10
_LAST_SEQ: Final = 2**63 - 1
_DELETE_PAGE: Final = 500
"""Threads that are hidden in one commit: some 20 ms, in which submits to them wait."""
_CANCEL_PAGE: Final = 100
_CANCELS_AT_ONCE: Final = 4
"""Of one bulk delete: others want connections, too."""


class ThreadService:
    """Threads of one user. Rows come as records: the surface names their fields its own way."""

    def __init__(self, database: Database, cancels: CancelService) -> None:
        self._database = database
        self._cancels = cancels

    async def create(
        self,
        principal: Principal,
        *,
        title: str | None,
        system_prompt: str | None,
        metadata: dict[str, Any],
        agent_spec_id: UUID | None = None,
    ) -> asyncpg.Record:
        """A new thread. `agent_spec_id` was checked by its own service."""
        row = await self._database.for_tenant(principal).fetch_one(
            "create_thread",
            new_id(),
            principal.tenant_id,
            principal.user_id,
            title,
            system_prompt,
            metadata,
            agent_spec_id,
        )
        if row is None:  # an insert returns its row
            raise ThreadNotFound
        return row

    async def get(self, principal: Principal, thread_id: UUID) -> asyncpg.Record:
        """One thread.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
        """
        return self._found(
            await self._database.for_tenant(principal).fetch_one(
                "get_thread", thread_id, principal.tenant_id, principal.user_id
            )
        )

    async def find_by_name(self, principal: Principal, name: str) -> UUID | None:
        """The thread of a name that the user, or their client, has chosen.

        The id of one of their threads is its name, too; any other name has a thread of its own,
        `thread_id_of_name`. None: that was deleted, or no turn has made it yet.
        """
        database = self._database.for_tenant(principal)
        for thread_id in filter(None, (_as_uuid(name), thread_id_of_name(principal, name))):
            row = await database.fetch_one(
                "get_thread", thread_id, principal.tenant_id, principal.user_id
            )
            if row is not None:
                return thread_id
        return None

    async def list_threads(
        self, principal: Principal, *, limit: int, cursor: str | None
    ) -> tuple[list[asyncpg.Record], str | None]:
        """A page of threads, newest activity first, and the cursor of the next one."""
        at, thread_id = decode_time_and_id(cursor) if cursor else (None, None)
        rows = await self._database.for_tenant(principal).fetch_many(
            "list_threads", principal.tenant_id, principal.user_id, at, thread_id, limit + 1
        )
        page = rows[:limit]
        if len(rows) <= limit:
            return page, None
        last = page[-1]
        return page, encode_time_and_id(last["last_message_at"] or last["created_at"], last["id"])

    async def update(
        self,
        principal: Principal,
        thread_id: UUID,
        *,
        title: object = UNCHANGED,
        system_prompt: object = UNCHANGED,
        metadata: object = UNCHANGED,
        agent_spec_id: object = UNCHANGED,
    ) -> asyncpg.Record:
        """Changes what is given; None clears. A new agent serves turns accepted from now on.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
        """
        kept = {} if metadata is None else metadata
        changes = as_flagged(title, system_prompt, kept, agent_spec_id)
        return self._found(
            await self._database.for_tenant(principal).fetch_one(
                "update_thread", thread_id, principal.tenant_id, principal.user_id, *changes
            )
        )

    async def delete(self, principal: Principal, thread_id: UUID) -> None:
        """Hides a thread after cancelling what is active in it.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
            ConcurrencyConflict: its owner goes on submitting turns meanwhile.
        """
        await self.get(principal, thread_id)
        active_turn_id = None
        for _ in range(_DELETE_TRIES):
            await self._cancels.cancel_all_of_thread(principal, thread_id)
            active_turn_id = await self._hide_if_idle(principal, thread_id)
            if active_turn_id is None:
                return
        raise ConcurrencyConflict(str(active_turn_id))

    async def _hide_if_idle(self, principal: Principal, thread_id: UUID) -> UUID | None:
        """Hides the thread unless a turn came in between; that turn's id then."""
        tenant_id, user_id = principal.tenant_id, principal.user_id

        async def hide(transaction: Transaction) -> UUID | None:
            self._found(await transaction.fetch_one("lock_thread", thread_id, tenant_id, user_id))
            active = await transaction.fetch_one(
                "find_active_turn_of_thread", tenant_id, user_id, thread_id
            )
            if active is not None:
                active_turn_id: UUID = active["id"]
                return active_turn_id
            await transaction.fetch_one("delete_thread", thread_id, tenant_id, user_id)
            return None

        return await self._database.for_tenant(principal).run_in_transaction(hide)

    async def delete_many(self, principal: Principal, thread_ids: Sequence[UUID] | None) -> int:
        """Hides these threads in one commit; None: all of the user's, a page to a commit.

        Cancels what is active in them first. Returns how many were hidden: ids that are unknown,
        deleted or somebody else's do not count. Threads made after the call began are left.

        Raises:
            ConcurrencyConflict: turns keep being submitted. The current commit is undone; earlier
                ones stand.
        """
        if thread_ids is not None:
            return await self._delete_page(principal, sorted(set(thread_ids)))
        # At once, for a line may go through many threads: who waits in it should not begin to run.
        await self._cancel_active(principal, None)
        database = self._database.for_tenant(principal)
        deleted, active_at, thread_id, began_at = 0, None, None, None
        while True:
            # The least active first: a thread that moves meanwhile is met later on.
            page = await database.fetch_many(
                "list_thread_ids",
                principal.tenant_id,
                principal.user_id,
                active_at,
                thread_id,
                began_at,
                _DELETE_PAGE,
            )
            if not page:
                return deleted
            deleted += await self._delete_page(principal, [row["id"] for row in page])
            active_at, thread_id = page[-1]["active_at"], page[-1]["id"]
            began_at = page[-1]["began_at"]

    async def _delete_page(self, principal: Principal, thread_ids: list[UUID]) -> int:
        """Hides all of these threads in one commit, or none."""
        active_turn_id = None
        for _ in range(_DELETE_TRIES):
            deleted, active_turn_id = await self._hide_all_if_idle(principal, thread_ids)
            if active_turn_id is None:
                return deleted
            await self._cancel_active(principal, thread_ids)
        raise ConcurrencyConflict(str(active_turn_id))

    async def _cancel_active(self, principal: Principal, thread_ids: list[UUID] | None) -> None:
        """Cancels what is active in these threads by now, those that wait before those that run.

        A turn that comes meanwhile may be left: this ends also where turns keep coming.
        """
        for waits in (True, False):
            before_seq: int | None = _LAST_SEQ
            while before_seq is not None:
                before_seq = await self._cancel_some(principal, thread_ids, waits, before_seq)

    async def _cancel_some(
        self, principal: Principal, thread_ids: list[UUID] | None, waits: bool, before_seq: int
    ) -> int | None:
        """Cancels the newest turns before a place; the place of the next ones, None: no more."""
        limit = asyncio.Semaphore(_CANCELS_AT_ONCE)

        async def cancel(turn_id: UUID) -> None:
            async with limit:
                with contextlib.suppress(TurnNotFound):  # another request deletes the thread
                    await self._cancels.cancel(principal, turn_id)

        rows = await self._database.for_tenant(principal).fetch_many(
            "find_active_turns_of_user",
            principal.tenant_id,
            principal.user_id,
            thread_ids,
            waits,
            before_seq,
            _CANCEL_PAGE,
        )
        try:
            async with asyncio.TaskGroup() as group:
                for row in rows:
                    group.create_task(cancel(row["id"]))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # as if it had been alone
        return rows[-1]["accept_seq"] if len(rows) == _CANCEL_PAGE else None

    async def _hide_all_if_idle(
        self, principal: Principal, thread_ids: list[UUID]
    ) -> tuple[int, UUID | None]:
        """Hides the threads unless a turn came in between; that turn's id then."""
        tenant_id, user_id = principal.tenant_id, principal.user_id

        async def hide(transaction: Transaction) -> tuple[int, UUID | None]:
            await transaction.fetch_one("lock_threads", tenant_id, user_id, thread_ids)
            active = await transaction.fetch_one(
                "find_active_turns_of_user", tenant_id, user_id, thread_ids, None, _LAST_SEQ, 1
            )
            if active is not None:
                return 0, active["id"]
            row = await transaction.fetch_one("delete_threads", tenant_id, user_id, thread_ids)
            return (0 if row is None else row["deleted"]), None

        return await self._database.for_tenant(principal).run_in_transaction(hide)

    async def list_messages(
        self,
        principal: Principal,
        thread_id: UUID,
        *,
        limit: int,
        cursor: str | None,
        newest_first: bool,
    ) -> tuple[list[asyncpg.Record], str | None]:
        """A page of a thread's messages and the cursor of the next one.

        Raises:
            ThreadNotFound: unknown, deleted or somebody else's.
        """
        listing = _messages_of(thread_id, newest_first)
        start = _LAST_SEQ if newest_first else 0
        place = decode_seq(cursor, listing) if cursor else start
        await self.get(principal, thread_id)
        query = "list_messages_backwards" if newest_first else "list_messages"
        rows = await self._database.for_tenant(principal).fetch_many(
            query, principal.tenant_id, thread_id, place, limit + 1
        )
        page = rows[:limit]
        return page, encode_seq(page[-1]["seq"], listing) if len(rows) > limit else None

    @staticmethod
    def _found(row: asyncpg.Record | None) -> asyncpg.Record:
        if row is None:
            raise ThreadNotFound
        return row


def cursor_of_message(thread_id: UUID, seq: int, *, newest_first: bool) -> str:
    """The cursor with which `ThreadService.list_messages` goes on behind the message at `seq`."""
    return encode_seq(seq, _messages_of(thread_id, newest_first))


def _messages_of(thread_id: UUID, newest_first: bool) -> str:
    return f"{'desc' if newest_first else 'asc'}:{thread_id}"


def thread_id_of_name(principal: Principal, name: str) -> UUID:
    """The id of a name's own thread, made or not."""
    return uuid5(principal.user_id, name)


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
