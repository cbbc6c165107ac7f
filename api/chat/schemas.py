"""Bodies of the primary surface. The models that validate are the ones the OpenAPI document shows.

camelCase outside, snake_case inside; absent values are `null` in responses, times are UTC with `Z`.
Specification: the VirtuousAI chat reference; what it leaves open is in `README.md`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StrictBool
from pydantic.alias_generators import to_camel

from api.validation import QueryInt
from shared.errors import InvalidRequest
from shared.turn.model import ConflictPolicy
from shared.turn.model import Turn as StoredTurn
from shared.turn.state import TurnStatus

MAX_TITLE_CHARS: Final = 255
MAX_PROMPT_CHARS: Final = 32_768
MAX_OBJECT_BYTES: Final = 16_384
MAX_TEXT_CHARS: Final = 200_000
MAX_KEY_CHARS: Final = 255
MAX_COMMENT_CHARS: Final = 4_000
MAX_BULK: Final = 100
_MESSAGES: Final = ("body", "messages")


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


def _small_object(value: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(value)) > MAX_OBJECT_BYTES:
        raise ValueError(f"Object should have at most {MAX_OBJECT_BYTES} bytes as JSON")
    return value


SmallObject = Annotated[dict[str, Any], AfterValidator(_small_object)]
Title = Annotated[str, Field(max_length=MAX_TITLE_CHARS)]
Rating = Literal["positive", "negative"]
SystemPrompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]


# -- responses


class Usage(_Model):
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_cost: str | None = Field(description="Decimal US dollars, such as 0.001230")


class TurnError(_Model):
    code: str
    message: str


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


class Turn(_Model):
    id: str
    thread_id: str
    status: TurnStatus
    attempt: int = Field(description="How many times a worker has begun to run it")
    input_message_id: str | None
    output_message_id: str | None
    model_id: str | None
    settings: dict[str, Any]
    usage: Usage | None
    error: TurnError | None
    idempotency_key: str | None
    concurrency_key: str | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    created_at: datetime
    updated_at: datetime


class DeletedThreads(_Model):
    deleted_count: int


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


class ThreadList(_Model):
    items: list[Thread]
    next_cursor: str | None


class MessageList(_Model):
    items: list[Message]
    next_cursor: str | None


class TurnList(_Model):
    items: list[Turn]
    next_cursor: str | None


# -- queries


class ThreadListQuery(_Model):
    limit: QueryInt = Field(default=20, ge=1, le=100)
    cursor: str | None = None


class MessageListQuery(_Model):
    limit: QueryInt = Field(default=50, ge=1, le=200)
    cursor: str | None = None
    order: Literal["asc", "desc"] = Field(default="asc", description="asc: oldest first")


class TurnListQuery(_Model):
    limit: QueryInt = Field(default=20, ge=1, le=100)
    cursor: str | None = None
    status: TurnStatus | None = None
    concurrency_key: str | None = Field(default=None, min_length=1, max_length=MAX_KEY_CHARS)


class FeedbackQuery(_Model):
    """Filters; all that are given must hold."""

    thread_id: UUID | None = None
    turn_id: UUID | None = None
    message_id: UUID | None = None
    rating: Rating | None = None
    created_after: AwareDatetime | None = Field(default=None, description="At this time or later")
    created_before: AwareDatetime | None = Field(default=None, description="Before this time")


class FeedbackListQuery(FeedbackQuery):
    limit: QueryInt = Field(default=20, ge=1, le=100)
    cursor: str | None = None


class TurnQuery(_Model):
    after: str | None = Field(default=None, description="Cursor: the id of the last event seen")


# -- requests


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


class CreateFeedback(_Model):
    """What is rated: a message, a turn, or with neither the thread as a whole."""

    rating: Rating
    comment: str | None = Field(default=None, max_length=MAX_COMMENT_CHARS)
    message_id: UUID | None = None
    turn_id: UUID | None = None


class CancelTurn(_Model):
    partial_text: str | None = Field(
        default=None,
        max_length=MAX_TEXT_CHARS,
        description="What the reader saw of the answer; kept in place of what the server gathered",
    )


class UIMessage(_Model):
    """A message of the AI SDK. Of the parts only text is used; files are refused for now."""

    id: str = ""
    role: Literal["user", "assistant", "system"]
    parts: list[dict[str, Any]] = Field(default_factory=list)


class SubmitTurn(_Model):
    """A new user message: `messages` as `useChat` sends them, or `message`, or `content`.

    Of `messages` only the last counts: the thread's history is the server's. To answer a message
    anew (`regenerate-message`) none is needed: the thread has it.
    """

    messages: list[Any] | None = Field(
        default=None,
        json_schema_extra={"items": {"$ref": "#/components/schemas/UIMessage"}},
    )
    message: str | dict[str, Any] | None = None
    content: str | None = None
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | None = Field(
        default=None,
        max_length=MAX_KEY_CHARS,
        description="regenerate-message: a message of the exchange to answer anew; null: the last",
    )
    model_id: str | None = Field(default=None, min_length=1, max_length=255)
    settings: SmallObject = Field(default_factory=dict)
    system_prompt: SystemPrompt | None = None
    concurrency_key: str | None = Field(default=None, min_length=1, max_length=MAX_KEY_CHARS)
    idempotency_key: str | None = None
    on_conflict: ConflictPolicy = ConflictPolicy.ENQUEUE

    def user_text(self) -> tuple[str, str | None]:
        """The user's text, and the client's own id of the message if it sent one.

        Raises:
            InvalidRequest: nothing usable, or something that would have to be dropped.
        """
        if self.messages:
            loc: tuple[str | int, ...] = (*_MESSAGES, len(self.messages) - 1)
            text, message_id = _read_message(self.messages[-1], loc)
        elif isinstance(self.message, dict):
            loc = ("body", "message")
            text, message_id = _read_message(self.message, loc)
        else:
            loc = ("body", "content" if self.message is None else "message")
            text, message_id = self.message or self.content or "", None
        if not text.strip():
            raise InvalidRequest(_MESSAGES, "A user message with text is required", "missing")
        if len(text) > MAX_TEXT_CHARS:
            msg = f"The text should have at most {MAX_TEXT_CHARS} characters"
            raise InvalidRequest(loc, msg, "string_too_long")
        return text, message_id


def _read_message(message: Any, loc: tuple[str | int, ...]) -> tuple[str, str | None]:
    if not isinstance(message, dict):
        raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type")
    if message.get("role", "user") != "user":
        raise InvalidRequest(_MESSAGES, "The last message must be the user's", "value_error")
    message_id = message.get("id")
    text = _join_texts(message, loc)
    return text, message_id if isinstance(message_id, str) and message_id else None


def _join_texts(message: dict[str, Any], loc: tuple[str | int, ...]) -> str:
    parts = message.get("parts")
    if parts is None:  # as AI SDK v4 and many others write it
        content = message.get("content", "")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise InvalidRequest((*loc, "parts"), "Input should be a valid list", "list_type")
    texts = [_read_part(part, (*loc, "parts", index)) for index, part in enumerate(parts)]
    return "\n".join(filter(None, texts))


def _read_part(part: Any, loc: tuple[str | int, ...]) -> str:
    """The text of one part; parts that carry nothing for the model have none."""
    if not isinstance(part, dict):
        raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type")
    if part.get("type") == "file":
        raise InvalidRequest(loc, "File parts are not supported yet", "value_error")
    if part.get("type") != "text":
        return ""
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest((*loc, "text"), "Input should be a valid string", "string_type")
    return text


# -- rendering


def turn_to_json(turn: StoredTurn) -> bytes:
    """A turn as the JSON object `Turn` describes; the fast path of polling."""
    return to_json(
        {
            "id": _id(turn.id),
            "threadId": _id(turn.thread_id),
            "status": turn.status,
            "attempt": turn.attempt,
            "inputMessageId": _id(turn.input_message_id),
            "outputMessageId": _id(turn.output_message_id),
            "modelId": turn.model_id,
            "settings": turn.settings,
            "usage": None if turn.usage is None else turn.usage.model_dump(by_alias=True),
            "error": turn.error,
            "idempotencyKey": turn.idempotency_key,
            "concurrencyKey": turn.concurrency_key,
            "startedAt": _time(turn.started_at),
            "completedAt": _time(turn.ended_at),
            "durationSeconds": turn.duration_s,
            "createdAt": _time(turn.created_at),
            "updatedAt": _time(turn.updated_at),
        }
    )


def thread_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_thread` as `Thread` describes it."""
    return {
        "id": _id(row["id"]),
        "title": row["title"],
        "systemPrompt": row["system_prompt"],
        "agentSpecId": _id(row["agent_spec_id"]),
        "metadata": row["metadata"],
        "crystallizeEligible": False,  # needs recorded tool calls, which no engine makes yet
        "lastMessageAt": _time(row["last_message_at"]),
        "lastMessagePreview": row["last_message_preview"],
        "lastTurnId": _id(row["last_turn_id"]),
        "lastTurnStatus": row["last_turn_status"],
        "createdAt": _time(row["created_at"]),
        "updatedAt": _time(row["changed_at"]),
    }


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


def to_json(value: Any) -> bytes:
    """Compact JSON; times in UTC with `Z`."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def _id(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _time(at: datetime | None) -> datetime | str | None:
    """RFC 3339 with microseconds; orjson writes them unless they are 0. Rows come in UTC."""
    if at is None or at.microsecond:
        return at
    return at.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
