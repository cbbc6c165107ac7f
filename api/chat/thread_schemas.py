"""Threads of the primary surface: as they are shown, listed, made and changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import Field, StrictBool

from api.validation import QueryInt
from api.wire import Model as _Model
from api.wire import SmallObject, SystemPrompt, Title
from api.wire import id_text as _id
from api.wire import instant as _time
from shared.errors import InvalidRequest
from shared.turn.state import TurnStatus

MAX_BULK: Final = 100


class Thread(_Model):
    id: str
    title: str | None
    system_prompt: str | None
    agent_spec_id: str | None
    metadata: dict[str, Any]
    crystallize_eligible: bool
    last_message_at: datetime | None
    last_message_preview: str | None
    last_turn_id: str | None
    last_turn_status: TurnStatus | None
    created_at: datetime
    updated_at: datetime


class DeletedThreads(_Model):
    deleted_count: int


class ThreadList(_Model):
    items: list[Thread]
    next_cursor: str | None


class ThreadListQuery(_Model):
    limit: QueryInt = Field(default=20, ge=1, le=100)
    cursor: str | None = None


class CreateThread(_Model):
    title: Title | None = None
    system_prompt: SystemPrompt | None = None
    agent_spec_id: str | None = Field(default=None, max_length=255)
    metadata: SmallObject = Field(default_factory=dict)


class UpdateThread(_Model):
    """What is absent stays as it is; null clears; metadata is replaced as a whole."""

    title: Title | None = None
    system_prompt: SystemPrompt | None = None
    agent_spec_id: str | None = Field(default=None, max_length=255)
    metadata: SmallObject | None = None


class BulkDelete(_Model):
    """The threads to delete, or `all` of the caller's; neither deletes none."""

    all: StrictBool = False
    thread_ids: list[UUID] | None = Field(default=None, max_length=MAX_BULK)

    def wanted(self) -> list[UUID] | None:
        """Ids of the threads; None: all of them.

        Raises:
            InvalidRequest: both are asked for.
        """
        if self.all and self.thread_ids:
            msg = "Give either all or threadIds, not both"
            raise InvalidRequest(("body", "threadIds"), msg)
        return None if self.all else self.thread_ids or []


def thread_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_thread` as `Thread` describes it."""
    return {
        "id": _id(row["id"]),
        "title": row["title"],
        "systemPrompt": row["system_prompt"],
        "agentSpecId": _id(row["agent_spec_id"]),
        "metadata": row["metadata"],
        "crystallizeEligible": row["is_crystallizable"],
        "lastMessageAt": _time(row["last_message_at"]),
        "lastMessagePreview": row["last_message_preview"],
        "lastTurnId": _id(row["last_turn_id"]),
        "lastTurnStatus": row["last_turn_status"],
        "createdAt": _time(row["created_at"]),
        "updatedAt": _time(row["changed_at"]),
    }
