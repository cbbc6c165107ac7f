"""Feedback of the primary surface: as it is given, listed and filtered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field

from api.validation import QueryInt
from api.wire import Model as _Model
from api.wire import id_text as _id
from api.wire import instant as _time

MAX_COMMENT_CHARS: Final = 4_000
Rating = Literal["positive", "negative"]


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("Input should be a time of the years 1 to 9999 in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Feedback(_Model):
    id: str
    thread_id: str
    turn_id: str | None
    message_id: str | None
    rating: Rating
    comment: str | None
    created_by: str | None
    created_at: datetime


class FeedbackList(_Model):
    items: list[Feedback]
    next_cursor: str | None


class FeedbackQuery(_Model):
    """Filters; all that are given must hold."""

    thread_id: UUID | None = None
    turn_id: UUID | None = None
    message_id: UUID | None = None
    rating: Rating | None = None
    created_after: Instant | None = Field(default=None, description="At this time or later")
    created_before: Instant | None = Field(default=None, description="Before this time")


class FeedbackListQuery(FeedbackQuery):
    limit: QueryInt = Field(default=20, ge=1, le=100)
    cursor: str | None = None


class CreateFeedback(_Model):
    """What is rated: a message, a turn, or with neither the thread as a whole."""

    rating: Rating
    comment: str | None = Field(default=None, max_length=MAX_COMMENT_CHARS)
    message_id: UUID | None = None
    turn_id: UUID | None = None


def feedback_to_dict(row: Any) -> dict[str, Any]:
    """A row of `list_feedback` as `Feedback` describes it."""
    return {
        "id": _id(row["id"]),
        "threadId": _id(row["thread_id"]),
        "turnId": _id(row["turn_id"]),
        "messageId": _id(row["message_id"]),
        "rating": row["rating"],
        "comment": row["comment"],
        "createdBy": _id(row["user_id"]),
        "createdAt": _time(row["created_at"]),
    }
