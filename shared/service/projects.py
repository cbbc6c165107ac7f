"""Projects: what threads of a workspace belong to. Every tenant has a default one."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import asyncpg

from shared.errors import ProjectNotFound
from shared.ids import new_id
from shared.postgres.pool import Database
from shared.postgres.transaction import Transaction
from shared.turn.model import Principal


class ProjectService:
    """Rows come as records."""

    def __init__(self, database: Database) -> None:
        self._database = database

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


async def default_project(database: Database | Transaction, tenant_id: UUID, user_id: UUID) -> UUID:
    """The tenant's default project, made by whoever asks first."""
    made = await database.fetch_one("add_default_project", new_id(), tenant_id, user_id)
    row = made or await database.fetch_one("find_default_project", tenant_id)
    project_id: UUID = row["id"]  # type: ignore[index]  # it is there now
    return project_id
