"""Turns in Postgres without Redis and workers: statements by name, as the code calls them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from shared.ids import new_id
from shared.postgres.batches import as_elements, columns
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database
from shared.service.accept import accept_arguments
from shared.turn.events import Usage
from shared.turn.messages import preview
from shared.turn.model import NewTurn, Principal
from shared.turn.state import TurnStatus


@dataclass
class Desk:
    database: Database
    accepts: GroupCommit = field(init=False)

    def __post_init__(self) -> None:
        self.accepts = GroupCommit(self.database, "accept_turns")

    async def accept(self, new: NewTurn, queue_ttl_s: float = 100.0) -> Any:
        return await self.accepts.run(*accept_arguments(new, queue_ttl_s))

    async def claim(self, turn_id: UUID, worker: str = "w1", lease_s: float = 60.0) -> Any:
        return await self.database.fetch_one("claim_turns", [turn_id], worker, lease_s)

    async def end(
        self,
        new: NewTurn,
        attempt: int,
        status: TurnStatus = TurnStatus.COMPLETED,
        text: str = "",
    ) -> Any:
        arguments = as_elements(end_arguments(new, attempt, status, text))
        return await self.database.fetch_one("end_turns", *columns([arguments]))

    async def reap(self, turn_id: UUID, attempt: int, gone: list[str], budget: int = 3) -> Any:
        return await self.database.fetch_one("reap_turn", turn_id, attempt, budget, gone)

    async def hand_back(self, turn_id: UUID, attempt: int, worker: str = "w1") -> list[Any]:
        return await self.database.fetch_many("hand_back_turns", worker, [turn_id], [attempt])

    async def request_cancel(self, new: NewTurn) -> Any:
        who = new.principal
        database = self.database.for_tenant(who)
        return await database.fetch_one("request_cancel", new.id, who.tenant_id, who.user_id)

    async def force_cancel(self, new: NewTurn, attempt: int, text: str) -> Any:
        return await self.database.for_tenant(new.principal).fetch_one(
            "force_cancel",
            new.id,
            new.principal.tenant_id,
            attempt,
            new.planned_output_message_id if text else None,
            text,
            {"kind": "response", "parts": []},
            Usage(output_tokens=len(text.split())).model_dump(by_alias=True),
            preview(text),
        )

    async def row(self, turn_id: UUID, tenant_id: UUID) -> Any:
        who = Principal(tenant_id, new_id(), new_id())
        return await self.database.for_tenant(who).fetch_one(
            "get_turn_of_tenant", turn_id, tenant_id
        )

    async def output(self, new: NewTurn) -> list[Any]:
        who = new.principal
        return await self.database.for_tenant(who).fetch_many(
            "list_output_messages", who.tenant_id, new.id
        )


def end_arguments(
    new: NewTurn, attempt: int, status: TurnStatus = TurnStatus.COMPLETED, text: str = ""
) -> tuple[Any, ...]:
    messages = []
    if text:
        message = {"id": str(new.planned_output_message_id), "role": "assistant"}
        messages = [{**message, "content": text, "raw_data": None}]
    return (
        new.id, new.principal.tenant_id, attempt, status, None, None,
        Usage(output_tokens=2, total_cost="0.5").model_dump(by_alias=True), 7,
        new.planned_output_message_id if text else None, messages, preview(text), new.thread_id,
    )  # fmt: skip
