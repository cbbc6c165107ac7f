"""Bodies of the primary surface. The models that validate are the ones the OpenAPI document shows.

camelCase outside, snake_case inside; absent values are `null` in responses, times are UTC with `Z`.
Specification: the VirtuousAI chat reference; what it leaves open is in `README.md`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, StrictBool, ValidationError

from api.chat.file_parts import MAX_FILES, read_file_part
from api.limits import (
    MAX_CALL_ID_CHARS,
    MAX_DECISIONS,
    MAX_PROMPT_CHARS,
    MAX_REASON_CHARS,
    MAX_TEXT_CHARS,
)
from api.request_headers import MAX_KEY_CHARS
from api.validation import QueryInt
from api.wire import Model as _Model
from api.wire import SmallObject, Title, to_json
from api.wire import id_text as _id
from api.wire import instant as _time
from shared.errors import InvalidRequest
from shared.turn.approval import Decision
from shared.turn.approval import OpenApproval as StoredApproval
from shared.turn.model import ConflictPolicy, NewFile
from shared.turn.model import Turn as StoredTurn
from shared.turn.state import TurnStatus

MAX_PARTS: Final = 10_000
MAX_COMMENT_CHARS: Final = 4_000
MAX_BULK: Final = 100
_MESSAGES: Final = ("body", "messages")

Rating = Literal["positive", "negative"]


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("Input should be a time of the years 1 to 9999 in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
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


class OpenApproval(_Model):
    """A tool call that somebody must decide on; `toolCallId` names it."""

    tool_call_id: str
    tool_name: str
    args: dict[str, Any]
    asked_at: datetime
    expires_at: datetime


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
    approvals: list[OpenApproval] = Field(description="Open ones; only of a parked turn")
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
    created_after: Instant | None = Field(default=None, description="At this time or later")
    created_before: Instant | None = Field(default=None, description="Before this time")


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


class ToolDecision(_Model):
    tool_call_id: str = Field(min_length=1, max_length=MAX_CALL_ID_CHARS)
    approved: StrictBool
    reason: str | None = Field(
        default=None, max_length=MAX_REASON_CHARS, description="Told to the model with a denial"
    )

    def as_decision(self) -> Decision:
        return Decision(self.tool_call_id, self.approved, self.reason or None)


class DecideTurn(_Model):
    """Decisions on all open tool calls of a parked turn."""

    decisions: list[ToolDecision] = Field(max_length=MAX_DECISIONS)


class UIMessage(_Model):
    """A message of the AI SDK. Of the parts text is used, and files with `data:` URLs."""

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

    def approval_responses(self) -> list[Decision] | None:
        """Decisions on tool calls that the last message brings; None when it is not such a one.

        `useChat` sends the assistant's message again, with parts in state `approval-responded`.

        Raises:
            InvalidRequest: a part is not what AI SDK 6 makes.
        """
        last = self.messages[-1] if self.messages else None
        is_answer = isinstance(last, dict) and last.get("role") == "assistant"
        if self.trigger != "submit-message" or not isinstance(last, dict) or not is_answer:
            return None
        parts = last.get("parts")
        if not isinstance(parts, list):
            return None
        loc = (*_MESSAGES, len(self.messages or ()) - 1, "parts")
        decisions = [
            _read_response(part, (*loc, index))
            for index, part in enumerate(parts[:MAX_PARTS])
            if isinstance(part, dict) and part.get("state") == "approval-responded"
        ]
        return decisions or None

    def user_message(self) -> UserMessage:
        """What the user said and brought along.

        Raises:
            InvalidRequest: nothing usable, or something that would have to be dropped.
        """
        if self.messages:
            loc: tuple[str | int, ...] = (*_MESSAGES, len(self.messages) - 1)
            said = _read_message(self.messages[-1], loc)
        elif isinstance(self.message, dict):
            loc = ("body", "message")
            said = _read_message(self.message, loc)
        else:
            loc = ("body", "content" if self.message is None else "message")
            said = UserMessage(self.message or self.content or "")
        if not said.text.strip():
            if not said.files:
                raise InvalidRequest(_MESSAGES, "A user message with text is required", "missing")
            names = ", ".join(file.name for file in said.files)
            said = said._replace(text=f"({names})")  # no provider takes an empty message
        if len(said.text) > MAX_TEXT_CHARS:
            msg = f"The text should have at most {MAX_TEXT_CHARS} characters"
            raise InvalidRequest(loc, msg, "string_too_long")
        return said


class UserMessage(NamedTuple):
    """The text of a message, the client's own id of it if it sent one, and its files."""

    text: str
    client_id: str | None = None
    files: tuple[NewFile, ...] = ()


def _read_response(part: dict[str, Any], loc: tuple[str | int, ...]) -> Decision:
    approval = part.get("approval")
    values = approval if isinstance(approval, dict) else {}
    try:
        return ToolDecision.model_validate(
            {
                "toolCallId": part.get("toolCallId"),
                "approved": values.get("approved"),
                "reason": values.get("reason"),
            }
        ).as_decision()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidRequest((*loc, *first["loc"]), first["msg"], first["type"]) from None


def _read_message(message: Any, loc: tuple[str | int, ...]) -> UserMessage:
    if not isinstance(message, dict):
        raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type")
    if message.get("role", "user") != "user":
        raise InvalidRequest(_MESSAGES, "The last message must be the user's", "value_error")
    message_id = message.get("id")
    known_id = message_id if isinstance(message_id, str) and message_id else None
    files: list[NewFile] = []
    text = _join_texts(message, loc, files)
    return UserMessage(text, known_id, tuple(files))


def _join_texts(message: dict[str, Any], loc: tuple[str | int, ...], files: list[NewFile]) -> str:
    parts = message.get("parts")
    if parts is None:  # as AI SDK v4 and many others write it
        content = message.get("content", "")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise InvalidRequest((*loc, "parts"), "Input should be a valid list", "list_type")
    texts = [_read_part(part, (*loc, "parts", index), files) for index, part in enumerate(parts)]
    return "\n".join(filter(None, texts))


def _read_part(part: Any, loc: tuple[str | int, ...], files: list[NewFile]) -> str:
    """The text of one part; a file goes to `files`, other parts carry nothing for the model."""
    if not isinstance(part, dict):
        raise InvalidRequest(loc, "Input should be a valid dictionary", "dict_type")
    if part.get("type") == "file":
        if len(files) == MAX_FILES:
            raise InvalidRequest(loc, f"A message takes at most {MAX_FILES} files", "too_long")
        files.append(read_file_part(part, loc))
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
            "settings": turn.settings | {"agentSpecId": _id(turn.agent_spec_id)},
            "usage": None if turn.usage is None else turn.usage.model_dump(by_alias=True),
            "error": turn.error,
            "approvals": [_approval_to_dict(asked) for asked in turn.approvals],
            "idempotencyKey": turn.idempotency_key,
            "concurrencyKey": turn.concurrency_key,
            "startedAt": _time(turn.started_at),
            "completedAt": _time(turn.ended_at),
            "durationSeconds": turn.duration_s,
            "createdAt": _time(turn.created_at),
            "updatedAt": _time(turn.updated_at),
        }
    )


def _approval_to_dict(asked: StoredApproval) -> dict[str, Any]:
    return {
        "toolCallId": asked.tool_call_id,
        "toolName": asked.tool_name,
        "args": asked.args,
        "askedAt": _time(asked.asked_at),
        "expiresAt": _time(asked.expires_at),
    }


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
