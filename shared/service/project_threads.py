"""Threads of projects. One that no project has belongs to the tenant's default project.

Whoever may use a shared thread acts with its owner's rights, as in `shared.service.shared_threads`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from shared.errors import ThreadNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.service.listing import Slice, TimeAndId, read_slice, slice_by_time
from shared.service.projects import ProjectService
from shared.turn.model import Principal


@dataclass(frozen=True, slots=True)
class ProjectThread:
    """A thread that somebody may use, and whom they act as."""

    row: asyncpg.Record
    project_id: UUID
    owner: Principal

    @property
    def id(self) -> UUID:
        thread_id: UUID = self.row["id"]
        return thread_id


class ProjectThreads:
    """Raises the errors of `shared.errors`. `project_id` was checked by `ProjectService`."""

    def __init__(self, database: Database, projects: ProjectService) -> None:
        self._database = database
        self._projects = projects

    async def create(
        self, principal: Principal, project_id: UUID, *, title: str, is_shared: bool
    ) -> asyncpg.Record:
        """A new thread of the caller's."""
        row = await self._database.for_tenant(principal).fetch_one(
            "create_project_thread",
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

    async def find(self, principal: Principal, thread_id: UUID) -> ProjectThread:
        """A thread that the caller may use.

        Raises:
            ThreadNotFound: unknown, deleted, private to somebody else, or in a project that is.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "find_project_thread", thread_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise ThreadNotFound
        project_id = row["project_id"] or await self._projects.get_default(principal)
        return ProjectThread(row, project_id, principal.acting_as(row["user_id"]))

    async def read_names(
        self, principal: Principal, rows: Sequence[Mapping[str, Any]]
    ) -> dict[UUID, str]:
        """The names of the owners of these threads, by their ids."""
        owners = list({row["user_id"] for row in rows})
        if not owners:
            return {}
        found = await self._database.fetch_many("list_user_names", principal.tenant_id, owners)
        return {row["id"]: row["name"] for row in found}

    async def update(
        self, owner: Principal, thread_id: UUID, *, title: str | None, is_shared: bool | None
    ) -> None:
        """Changes what is not None.

        Raises:
            ThreadNotFound: deleted meanwhile.
        """
        row = await self._database.for_tenant(owner).fetch_one(
            "update_project_thread",
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
        return await read_slice(
            self._database,
            principal,
            ("list_project_threads", "count_project_threads"),
            (principal.tenant_id, principal.user_id, stored),
            slice_by_time(part),
        )

    async def _stored_project(self, principal: Principal, project_id: UUID) -> UUID | None:
        """As threads have it: the default project is none."""
        return None if project_id == await self._projects.get_default(principal) else project_id


def _visibility(is_shared: bool) -> str:
    return "shared" if is_shared else "private"
