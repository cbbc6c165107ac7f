"""Messages of the primary surface, as they are shown and listed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.validation import QueryInt
from api.wire import Model as _Model
from api.wire import id_text as _id
from api.wire import instant as _time


class Message(_Model):
    id: str
    thread_id: str
    turn_id: str | None
    role: Literal["user", "assistant", "system", "tool"]
    content: str
    format: Literal["pydantic_ai", "text"]
    raw_data: dict[str, Any] | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime


class MessageList(_Model):
    items: list[Message]
    next_cursor: str | None


class MessageListQuery(_Model):
    limit: QueryInt = Field(default=50, ge=1, le=200)
    cursor: str | None = None
    order: Literal["asc", "desc"] = Field(default="asc", description="asc: oldest first")


def message_to_dict(row: Any) -> dict[str, Any]:
    """A row of `list_messages` as `Message` describes it."""
    return {
        "id": _id(row["id"]),
        "threadId": _id(row["thread_id"]),
        "turnId": _id(row["turn_id"]),
        "role": row["role"],
        "content": row["content"],
        "format": row["format"],
        "rawData": row["raw_data"],
        "createdBy": _id(row["created_by"]),
        "createdAt": _time(row["created_at"]),
        "updatedAt": _time(row["updated_at"]),
    }
