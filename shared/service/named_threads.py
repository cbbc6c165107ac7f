"""Threads under names that callers choose: found, made, listed; and what is said in them.

A name belongs to one workspace and one namespace, which are apart from all others; they come to be
with their first thread. The app is a label of the thread: who names another one means another
thread, and is told that there is none. A thread without a name is found by its id in the scope that
is called `default` all through. All named threads are shared within their tenant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from shared.errors import NameTaken, ThreadNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.page_cursor import decode_time_and_id, encode_time_and_id
from shared.service.shared_threads import SharedThreads
from shared.turn.model import Principal

DEFAULT: Final = "default"
"""The workspace, the namespace and the app of threads that have no name."""
_MOST_READ: Final = 400
"""Messages of which a context is chosen, and as many of the system."""
_MOST_READ_BYTES: Final = 8 * 1024 * 1024
_MOST_ARTIFACTS: Final = 1000
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_LAST_ID: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where threads are. `app` None: of whatever app."""

    workspace: str
    namespace: str
    app: str | None = None

    @property
    def is_default(self) -> bool:
        return (
            self.workspace == DEFAULT
            and self.namespace == DEFAULT
            and (self.app is None or self.app == DEFAULT)
        )


@dataclass(frozen=True, slots=True)
class NamedThread:
    """A thread that somebody may use under a name."""

    id: UUID
    owner: Principal
    """Whom they act as."""
    app: str | None


class NamedThreads:
    """Raises the errors of `shared.errors`. Rows come as records."""

    def __init__(self, database: Database, threads: SharedThreads) -> None:
        self._database = database
        self._threads = threads

    async def find(self, principal: Principal, scope: Scope, name: str) -> NamedThread:
        """The thread of a name.

        Raises:
            ThreadNotFound: there is none, it is of another app, or not the principal's to use.
        """
        found = await self._find_in_any_app(principal, scope, name)
        if found is None or scope.app not in (None, found.app):
            raise ThreadNotFound
        return found

    async def find_or_create(self, principal: Principal, scope: Scope, name: str) -> NamedThread:
        """The thread of a name, made if there is none.

        Raises:
            NameTaken: the name is of another app, or its thread not the principal's to use.
        """
        found = await self._find_in_any_app(principal, scope, name)
        if found is None:
            try:
                row = await self.create(principal, scope, name)
            except NameTaken:  # another request was quicker
                found = await self._find_in_any_app(principal, scope, name)
            else:
                return NamedThread(row["thread_id"], principal, row["app"])
        if found is None or scope.app not in (None, found.app):
            raise NameTaken(name)
        return found

    async def create(
        self,
        principal: Principal,
        scope: Scope,
        name: str | None,
        *,
        title: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> asyncpg.Record:
        """A new thread under a name, which is its id if None.

        Raises:
            NameTaken: another living thread has the name.
        """
        thread_id = new_id()

        async def work(transaction: Transaction) -> asyncpg.Record:
            tenant_id = principal.tenant_id
            await transaction.fetch_one(
                "create_thread_for_name", thread_id, tenant_id, principal.user_id, title
            )
            row = await transaction.fetch_one(
                "name_thread",
                tenant_id,
                scope.workspace,
                scope.namespace,
                name or str(thread_id),
                scope.app,
                thread_id,
                details or {},
            )
            if row is None:
                raise NameTaken(name or str(thread_id))
            return row

        return await self._database.for_tenant(principal).run_in_transaction(work)

    async def list_threads(
        self, principal: Principal, scope: Scope, *, limit: int, cursor: str | None
    ) -> tuple[list[asyncpg.Record], str | None, int]:
        """A page of named threads, newest first, the cursor of the next one, and how many in all.

        Raises:
            InvalidCursor: made for another list.
        """
        listing = _listing(scope)
        at, thread_id = decode_time_and_id(cursor, listing) if cursor else (_NEVER, _LAST_ID)
        database = self._database.for_tenant(principal)
        tenant_id = principal.tenant_id
        place = (tenant_id, principal.user_id, scope_key(tenant_id, scope), *_in_order(scope))
        rows = await database.fetch_many("list_named_threads", *place, at, thread_id, limit + 1)
        counted = await database.fetch_one("count_named_threads", *place)
        total = 0 if counted is None else int(counted["total"])
        page = rows[:limit]
        if len(rows) <= limit:
            return page, None, total
        last = page[-1]
        return page, encode_time_and_id(last["created_at"], last["thread_id"], listing), total

    async def read_newest(
        self, owner: Principal, thread_id: UUID, roles: Sequence[str]
    ) -> tuple[list[asyncpg.Record], bool]:
        """The newest messages of these roles, oldest first, and whether there are no earlier ones.

        Of a thread that was found before.
        """
        rows = await self._database.for_tenant(owner).fetch_many(
            "list_newest_messages",
            owner.tenant_id,
            thread_id,
            list(roles),
            _MOST_READ,
            _MOST_READ_BYTES,
        )
        found = rows[0]["found"] if rows else 0
        return rows, len(rows) == found < _MOST_READ

    async def turns_of(
        self, owner: Principal, messages: Sequence[asyncpg.Record]
    ) -> dict[UUID, asyncpg.Record]:
        """Model, usage and output message of the turns that made the messages."""
        wanted = {row["turn_id"] for row in messages if row["turn_id"] is not None}
        if not wanted:
            return {}
        rows = await self._database.for_tenant(owner).fetch_many(
            "find_turns_of_messages", owner.tenant_id, list(wanted)
        )
        return {row["id"]: row for row in rows}

    async def artifacts_of(
        self, owner: Principal, thread_id: UUID, messages: Sequence[asyncpg.Record]
    ) -> dict[UUID, list[asyncpg.Record]]:
        """Artifacts attached to messages that turns were asked with."""
        wanted = [row["id"] for row in messages if row["turn_id"] and row["role"] == "user"]
        found: dict[UUID, list[asyncpg.Record]] = {}
        if not wanted:
            return found
        rows = await self._database.for_tenant(owner).fetch_many(
            "list_artifacts_of_messages", owner.tenant_id, thread_id, wanted, _MOST_ARTIFACTS
        )
        for row in rows:
            found.setdefault(row["message_id"], []).append(row)
        return found

    async def _find_in_any_app(
        self, principal: Principal, scope: Scope, name: str
    ) -> NamedThread | None:
        # First: an id means its thread to whoever may use it, though another one has it for a name.
        thread_id = _as_id(name) if scope.is_default else None
        found = None if thread_id is None else await self._find_without_name(principal, thread_id)
        if found is not None:
            return found
        row = await self._database.for_tenant(principal).fetch_one(
            "find_named_thread",
            principal.tenant_id,
            scope.workspace,
            scope.namespace,
            name,
            principal.user_id,
        )
        if row is None:
            return None
        return NamedThread(row["thread_id"], principal.acting_as(row["user_id"]), row["app"])

    async def _find_without_name(self, principal: Principal, thread_id: UUID) -> NamedThread | None:
        try:
            owner = await self._threads.find_owner(principal, thread_id)
        except ThreadNotFound:
            return None
        # A named thread has its own scope: its id opens no other way to it.
        is_named = await self._database.for_tenant(principal).fetch_one(
            "find_name_of_thread", thread_id, principal.tenant_id
        )
        return None if is_named else NamedThread(thread_id, owner, DEFAULT)


def scope_key(tenant_id: UUID, scope: Scope) -> str:
    """As `named_threads.scope` has it."""
    size = len(scope.workspace.encode())
    text = f"{tenant_id}{size}:{scope.workspace}{scope.namespace}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _in_order(scope: Scope) -> tuple[str, str, str | None]:
    return scope.workspace, scope.namespace, scope.app


def _listing(scope: Scope) -> str:
    """What a cursor is bound to: short, whatever the names."""
    names = orjson.dumps(_in_order(scope))
    return "named:" + hashlib.sha256(names).hexdigest()[:32]


def _as_id(name: str) -> UUID | None:
    try:
        found = UUID(name)
    except ValueError:
        return None
    return found if str(found) == name.lower() else None
