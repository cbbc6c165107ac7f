"""Interactions of threads: turns whose message is still there, with what was asked and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from shared.errors import TurnNotFound
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.service.listing import Slice, read_slice
from shared.service.project_threads import ProjectThread
from shared.service.projects import ProjectService
from shared.turn.model import Principal, Turn


@dataclass(frozen=True, slots=True)
class Interaction:
    """A turn, what was asked, and what was said in answer: rows of messages, oldest first."""

    turn: Turn
    project_id: UUID
    asked: asyncpg.Record | None
    said: Sequence[asyncpg.Record]


class Interactions:
    """Raises the errors of `shared.errors`."""

    def __init__(self, database: Database, projects: ProjectService) -> None:
        self._database = database
        self._projects = projects

    async def find(self, principal: Principal, turn_id: UUID) -> Interaction:
        """An interaction of a thread that the caller may use; its turn's `user_id` is the owner.

        Raises:
            TurnNotFound: unknown, deleted, replaced by a later one, or in a thread of no concern.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "find_interaction", turn_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise TurnNotFound
        project_id = row["project_id"] or await self._projects.get_default(principal)
        (found,) = await self.describe(principal, project_id, [turn_from_row(row)])
        return found

    async def list_interactions(
        self, thread: ProjectThread, part: Slice[int]
    ) -> tuple[list[Interaction], int]:
        """A part of a thread's interactions, and how many there are in all."""
        rows, total = await read_slice(
            self._database,
            thread.owner,
            ("list_interactions", "count_interactions"),
            (thread.owner.tenant_id, thread.id),
            (part.place, part.is_backwards, part.skipped, part.most),
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
