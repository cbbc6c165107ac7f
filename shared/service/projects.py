"""Projects, which threads and artifacts belong to. Every tenant has a default one."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from shared.errors import ProjectNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.service.listing import Slice, TimeAndId, read_slice, slice_by_time
from shared.turn.model import Principal

MOST_KEPT: Final = 10_000
"""Default projects of so many tenants are remembered."""


class ProjectService:
    """Rows come as records."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._defaults: dict[UUID, UUID] = {}

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        goal: str | None = None,
        deadline: datetime | None = None,
        is_shared: bool = True,
    ) -> asyncpg.Record:
        """A new project."""
        row = await self._database.for_tenant(principal).fetch_one(
            "create_project",
            new_id(),
            principal.tenant_id,
            principal.user_id,
            name,
            goal,
            deadline,
            "shared" if is_shared else "private",
        )
        if row is None:  # an insert returns its row
            raise ProjectNotFound
        return row

    async def get(self, principal: Principal, project_id: UUID) -> asyncpg.Record:
        """One project.

        Raises:
            ProjectNotFound: unknown, deleted, another tenant's, or private to somebody else.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "get_project", project_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise ProjectNotFound
        return row

    async def get_default(self, principal: Principal) -> UUID:
        """The tenant's default project. There is one for good, so it is asked for once."""
        tenant_id = principal.tenant_id
        known = self._defaults.get(tenant_id)
        if known is None:
            known = await default_project(
                self._database, tenant_id, principal.acts_for or principal.user_id
            )
            if len(self._defaults) >= MOST_KEPT:
                self._defaults.clear()
            self._defaults[tenant_id] = known
        return known

    async def list_projects(
        self, principal: Principal, part: Slice[TimeAndId]
    ) -> tuple[list[asyncpg.Record], int]:
        """A part of the projects that the caller may see, and how many there are in all."""
        await self.get_default(principal)
        return await read_slice(
            self._database,
            principal,
            ("list_projects", "count_projects"),
            (principal.tenant_id, principal.user_id),
            slice_by_time(part),
        )


async def default_project(database: Database | Transaction, tenant_id: UUID, user_id: UUID) -> UUID:
    """The tenant's default project, made by whoever asks first."""
    made = await database.fetch_one("add_default_project", new_id(), tenant_id, user_id)
    row = made or await database.fetch_one("find_default_project", tenant_id)
    project_id: UUID = row["id"]  # type: ignore[index]  # it is there now
    return project_id
