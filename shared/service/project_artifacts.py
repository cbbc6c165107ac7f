"""Artifacts of projects, and how far the texts of those that an interaction names were read.

`shared.service.artifacts` makes them, as it makes all.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from shared.errors import ArtifactNotFound
from shared.postgres.pool import Database
from shared.service.listing import Slice, TimeAndId, read_slice, slice_by_time
from shared.turn.model import Principal


class ProjectArtifacts:
    """Raises the errors of `shared.errors`. `project_id` was checked by `ProjectService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_ingestion(self, principal: Principal, artifact_id: UUID) -> None:
        """Has the text of an artifact's file read, so that it is there when it is named."""
        await self._database.for_tenant(principal).fetch_one(
            "begin_ingestion", artifact_id, principal.tenant_id
        )

    async def get(self, principal: Principal, artifact_id: UUID) -> asyncpg.Record:
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
        return await read_slice(
            self._database,
            principal,
            ("list_project_artifacts", "count_project_artifacts"),
            (principal.tenant_id, principal.user_id, project_id),
            slice_by_time(part),
        )

    async def find_named(
        self, principal: Principal, artifact_ids: Sequence[UUID]
    ) -> list[asyncpg.Record]:
        """These artifacts, in this order, of a project or of none, and how far they were read.

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
