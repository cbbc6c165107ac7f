"""Projects as a workspace: their threads, what was asked and answered in those, their artifacts.

Whoever may use a shared thread acts with its owner's rights, as in `shared.service.shared_threads`.
A thread that no project has belongs to the tenant's default project. An interaction is a turn whose
message is still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg

from shared.errors import ArtifactNotFound, ThreadNotFound, TurnNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.postgres.transaction import Transaction
from shared.service.projects import default_project
from shared.turn.model import Principal, Turn

P = TypeVar("P")
TimeAndId = tuple[datetime, UUID]
"""The place of a row in a list by time."""


@dataclass(frozen=True, slots=True)
class Slice(Generic[P]):
    """Which part of a list is read: behind `place`, in the list's order or against it.

    Against it, the rows come in the reverse order.
    """

    place: P | None
    is_backwards: bool
    skipped: int
    most: int


@dataclass(frozen=True, slots=True)
class WorkspaceThread:
    """A thread that somebody may use, and whom they act as."""

    row: asyncpg.Record
    project_id: UUID
    owner: Principal

    @property
    def id(self) -> UUID:
        thread_id: UUID = self.row["id"]
        return thread_id


@dataclass(frozen=True, slots=True)
class Interaction:
    """A turn, what was asked, and what was said in answer: rows of messages, oldest first."""

    turn: Turn
    project_id: UUID
    asked: asyncpg.Record | None
    said: Sequence[asyncpg.Record]


class Workspace:
    """Raises the errors of `shared.errors`. `project_id` was checked by `ProjectService`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._default_projects: dict[UUID, UUID] = {}

    # -- projects

    async def default_project(self, principal: Principal) -> UUID:
        """The tenant's default project. There is one for good, so it is asked for once."""
        tenant_id = principal.tenant_id
        known = self._default_projects.get(tenant_id)
        if known is None:
            known = await default_project(
                self._database, tenant_id, principal.acts_for or principal.user_id
            )
            if len(self._default_projects) >= MOST_KEPT:
                self._default_projects.clear()
            self._default_projects[tenant_id] = known
        return known

    async def list_projects(
        self, principal: Principal, part: Slice[TimeAndId]
    ) -> tuple[list[asyncpg.Record], int]:
        """A part of the projects that the caller may see, and how many there are in all."""
        await self.default_project(principal)
        who = (principal.tenant_id, principal.user_id)
        return await self._read_list(
            principal, "list_projects", (*who, *_arguments(part)), "count_projects", who
        )

    # -- threads

    async def create_thread(
        self, principal: Principal, project_id: UUID, *, title: str, is_shared: bool
    ) -> asyncpg.Record:
        """A new thread of the caller's."""
        row = await self._database.for_tenant(principal).fetch_one(
            "create_workspace_thread",
            new_id(),
            principal.tenant_id,
            principal.user_id,
            title,
            _visibility(is_shared),
            await self._stored_project(principal, project_id),
        )
        if row is None:  # an insert returns its row
            raise ThreadNotFound
        return row

    async def find_thread(self, principal: Principal, thread_id: UUID) -> WorkspaceThread:
        """A thread that the caller may use.

        Raises:
            ThreadNotFound: unknown, deleted, private to somebody else, or in a project that is.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "find_workspace_thread", thread_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise ThreadNotFound
        project_id = row["project_id"] or await self.default_project(principal)
        return WorkspaceThread(row, project_id, principal.acting_as(row["user_id"]))

    async def read_names(
        self, principal: Principal, rows: Sequence[Mapping[str, Any]]
    ) -> dict[UUID, str]:
        """The names of the owners of these threads, by their ids."""
        owners = list({row["user_id"] for row in rows})
        if not owners:
            return {}
        found = await self._database.fetch_many("list_user_names", principal.tenant_id, owners)
        return {row["id"]: row["name"] for row in found}

    async def update_thread(
        self, owner: Principal, thread_id: UUID, *, title: str | None, is_shared: bool | None
    ) -> None:
        """Changes what is not None.

        Raises:
            ThreadNotFound: deleted meanwhile.
        """
        row = await self._database.for_tenant(owner).fetch_one(
            "update_workspace_thread",
            thread_id,
            owner.tenant_id,
            owner.user_id,
            title,
            None if is_shared is None else _visibility(is_shared),
        )
        if row is None:
            raise ThreadNotFound

    async def list_threads(
        self, principal: Principal, project_id: UUID, part: Slice[TimeAndId]
    ) -> tuple[list[asyncpg.Record], int]:
        """A part of a project's threads that the caller may use, and how many there are in all."""
        stored = await self._stored_project(principal, project_id)
        where = (principal.tenant_id, principal.user_id, stored)
        return await self._read_list(
            principal,
            "list_project_threads",
            (*where, *_arguments(part)),
            "count_project_threads",
            where,
        )

    # -- interactions

    async def find_interaction(self, principal: Principal, turn_id: UUID) -> Interaction:
        """An interaction of a thread that the caller may use; its turn's `user_id` is the owner.

        Raises:
            TurnNotFound: unknown, deleted, replaced by a later one, or in a thread of no concern.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "find_interaction", turn_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise TurnNotFound
        project_id = row["project_id"] or await self.default_project(principal)
        (found,) = await self.describe(principal, project_id, [turn_from_row(row)])
        return found

    async def list_interactions(
        self, thread: WorkspaceThread, part: Slice[int]
    ) -> tuple[list[Interaction], int]:
        """A part of a thread's interactions, and how many there are in all."""
        where = (thread.owner.tenant_id, thread.id)
        rows, total = await self._read_list(
            thread.owner,
            "list_interactions",
            (*where, part.place, part.is_backwards, part.skipped, part.most),
            "count_interactions",
            where,
        )
        turns = [turn_from_row(row) for row in rows]
        return await self.describe(thread.owner, thread.project_id, turns), total

    async def describe(
        self, principal: Principal, project_id: UUID, turns: Sequence[Turn]
    ) -> list[Interaction]:
        """Turns of one thread with what was asked and said in them."""
        if not turns:
            return []
        rows = await self._read_messages(principal, turns)
        found = []
        for turn in turns:
            own = [row for row in rows if row["turn_seq"] == turn.accept_seq]
            asked = next((row for row in own if row["id"] == turn.input_message_id), None)
            said = [row for row in own if row["role"] != "user"]
            found.append(Interaction(turn, project_id, asked, said))
        return found

    async def read_said(self, principal: Principal, turn: Turn) -> list[asyncpg.Record]:
        """The messages that a turn has produced, oldest first."""
        rows = await self._read_messages(principal, [turn])
        return [row for row in rows if row["role"] != "user"]

    async def _read_messages(
        self, principal: Principal, turns: Sequence[Turn]
    ) -> list[asyncpg.Record]:
        return await self._database.for_tenant(principal).fetch_many(
            "list_messages_of_turns",
            principal.tenant_id,
            turns[0].thread_id,
            [turn.accept_seq for turn in turns],
        )

    async def find_agent(self, principal: Principal, slug: str) -> UUID | None:
        """The id of the tenant's agent spec of this slug; None: there is none that may be asked."""
        row = await self._database.for_tenant(principal).fetch_one(
            "find_agent_by_slug", principal.tenant_id, slug
        )
        return None if row is None or row["mode"] != "primary" else row["id"]

    # -- artifacts

    async def begin_ingestion(self, principal: Principal, artifact_id: UUID) -> None:
        """Has the text of an artifact's file read, so that it is there when it is named."""
        await self._database.for_tenant(principal).fetch_one(
            "begin_ingestion", artifact_id, principal.tenant_id
        )

    async def get_artifact(self, principal: Principal, artifact_id: UUID) -> asyncpg.Record:
        """One artifact of a project.

        Raises:
            ArtifactNotFound: unknown, of no project, or private to somebody else.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "get_project_artifact", artifact_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise ArtifactNotFound
        return row

    async def list_artifacts(
        self, principal: Principal, project_id: UUID, part: Slice[TimeAndId]
    ) -> tuple[list[asyncpg.Record], int]:
        """A part of a project's artifacts, and how many there are in all."""
        where = (principal.tenant_id, principal.user_id, project_id)
        return await self._read_list(
            principal,
            "list_project_artifacts",
            (*where, *_arguments(part)),
            "count_project_artifacts",
            where,
        )

    async def find_artifacts(
        self, principal: Principal, artifact_ids: Sequence[UUID]
    ) -> list[asyncpg.Record]:
        """These artifacts, in this order, and how far their texts were read.

        Raises:
            ArtifactNotFound: one is unknown, deleted, or private to somebody else.
        """
        rows = await self._database.for_tenant(principal).fetch_many(
            "find_named_artifacts", principal.tenant_id, principal.user_id, list(artifact_ids)
        )
        found = {row["id"]: row for row in rows}
        if len(found) < len(set(artifact_ids)):
            raise ArtifactNotFound
        return [found[artifact_id] for artifact_id in artifact_ids]

    async def _stored_project(self, principal: Principal, project_id: UUID) -> UUID | None:
        """As threads have it: the default project is none."""
        return None if project_id == await self.default_project(principal) else project_id

    async def _read_list(
        self,
        principal: Principal,
        query: str,
        arguments: Sequence[Any],
        counting: str,
        counted: Sequence[Any],
    ) -> tuple[list[asyncpg.Record], int]:
        async def read(transaction: Transaction) -> tuple[list[asyncpg.Record], int]:
            rows = await transaction.fetch_many(query, *arguments)
            count = await transaction.fetch_one(counting, *counted)
            return rows, 0 if count is None else count["total"]

        return await self._database.for_tenant(principal).run_in_transaction(read)


MOST_KEPT = 10_000
"""Default projects of so many tenants are remembered."""


def _arguments(part: Slice[TimeAndId]) -> tuple[Any, ...]:
    at, row_id = part.place or (None, None)
    return at, row_id, part.is_backwards, part.skipped, part.most


def _visibility(is_shared: bool) -> str:
    return "shared" if is_shared else "private"
