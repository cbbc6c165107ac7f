"""Bodies of the MechaMental thread messages surface, snake_case as its reference prints them.

Specification: MechaMental's API reference, "Thread messages" and "Threads"; what it leaves open is
in docs/surfaces/mechamental.md.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StrictBool,
    StrictInt,
)
from pydantic_core import PydanticCustomError

from api.limits import MAX_OBJECT_BYTES, MAX_TEXT_CHARS
from api.validation import QueryInt

MAX_NAME_CHARS: Final = 255
MAX_LIST_BYTES: Final = 131_072
MAX_LIST_ITEMS: Final = 128
MAX_TOKENS: Final = 1_000_000
_MAX_COUNT: Final = 2**53
_LOST_PLUS: Final = re.compile(r"(.*\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?) (\d\d(?::?\d\d)?)")

Role = Literal["system", "user", "assistant", "tool"]


def _small(limit: int) -> AfterValidator:
    def check(value: Any) -> Any:
        if len(orjson.dumps(value)) > limit:
            raise PydanticCustomError(
                "too_long", "Value should have at most {limit} bytes as JSON", {"limit": limit}
            )
        return value

    return AfterValidator(check)


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("value_error", "Value holds a NUL character")
    return value


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_no_nul)]
Label = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
Count = Annotated[StrictInt, Field(ge=0, le=_MAX_COUNT)]
Objects = Annotated[
    list[dict[str, Any]],
    Field(max_length=MAX_LIST_ITEMS),  # first, so that no more of them are looked at
    BeforeValidator(lambda value: [] if value is None else value),
    _small(MAX_LIST_BYTES),
]
Object = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: {} if value is None else value),
    _small(MAX_OBJECT_BYTES),
]
Labels = Annotated[
    list[Label],
    Field(max_length=MAX_LIST_ITEMS),
    BeforeValidator(lambda value: [] if value is None else value),
]


class Model(BaseModel):
    """Unknown members are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# -- errors


class MechaMentalErrorItem(Model):
    """What is wrong with one value. Inputs of more than 2 KiB are not repeated."""

    loc: list[str | int]
    msg: str
    type: str
    input: Any
    ctx: dict[str, Any]


class MechaMentalInvalid(Model):
    detail: list[MechaMentalErrorItem]


class MechaMentalProblem(Model):
    error: str
    message: str
    details: dict[str, Any]
    timestamp: str
    status_code: int


# -- responses


class Null(RootModel[None]):
    """What is answered where nothing is left to tell."""


class ThreadMessage(Model):
    message_id: str
    thread_id: str
    workspace_id: str
    app_id: str | None
    namespace_id: str
    role: Role
    content: str
    source: str
    execution_id: str | None
    augmentation_id: str | None
    endpoint_id: str | None
    model: str | None
    token_count: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    tool_call_id: str | None
    tool_calls: list[dict[str, Any]]
    tool_name: str | None
    artifacts: list[dict[str, Any]]
    metadata: dict[str, Any]
    parent_message_id: str | None
    created_at: str


class ThreadMessageList(Model):
    total: int
    has_more: bool
    next_cursor: str | None
    messages: list[ThreadMessage]


class ConversationContext(Model):
    messages: list[dict[str, Any]] = Field(
        description="role, content, and as they apply tool_calls, tool_call_id, name"
    )
    total_tokens: int
    message_count: int
    truncated: bool = Field(description="Whether any message was left out")


class NamespaceThread(Model):
    thread_id: str
    workspace_id: str
    app_id: str | None
    namespace_id: str
    name: str
    source_ids: list[str]
    memory_ids: list[str]
    augmentation_ids: list[str]
    summary: str | None
    tags: list[str]
    status: Literal["active"]
    created_at: str
    updated_at: str


class NamespaceThreadList(Model):
    total: int
    has_more: bool
    next_cursor: str | None
    threads: list[NamespaceThread]


# -- paths and queries


class ThreadPath(Model):
    """Ids of a path, any text without a slash; `None` where the path has no such part."""

    workspace_id: Name
    app_id: Name | None = None
    namespace_id: Name
    thread_id: Name | None = None


class ThreadMessageListQuery(Model):
    ascending: bool = Field(
        default=True, description="If true, oldest first. If false, newest first."
    )
    limit: QueryInt = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, description="The last response's next_cursor")


class NamespaceThreadListQuery(Model):
    limit: QueryInt = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, description="The last response's next_cursor")


def _instant(value: Any) -> Any:
    """A time in ISO 8601; without an offset it is in UTC. A `+` that was not escaped is a space."""
    text = str(value).strip()
    if (lost := _LOST_PLUS.fullmatch(text)) is not None:
        text = f"{lost[1]}+{lost[2]}"
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "datetime_parsing", "Input should be a valid datetime in ISO format"
        ) from None


class DeleteMessageQuery(Model):
    timestamp: Annotated[datetime, BeforeValidator(_instant)] = Field(
        description="The message's created_at (ISO format)"
    )


# -- requests


class Addressed(Model):
    """The ids of the path once more; they must be the same."""

    workspace_id: Name
    app_id: Name | None
    namespace_id: Name
    thread_id: Name


class CreateThreadMessage(Addressed):
    """A message to be stored as it is; no model is run."""

    role: Role
    content: str = Field(
        max_length=MAX_TEXT_CHARS, description="Empty only in a message with tool_calls"
    )
    source: Annotated[str, Field(min_length=1, max_length=64)] = "user_input"
    execution_id: Label | None = None
    augmentation_id: Label | None = None
    endpoint_id: Label | None = None
    model: Label | None = None
    token_count: Count | None = Field(default=None, description="null: it is estimated")
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    tool_call_id: Label | None = None
    tool_calls: Objects = Field(default_factory=list)
    tool_name: Label | None = None
    artifacts: Objects = Field(default_factory=list)
    metadata: Object = Field(default_factory=dict)
    parent_message_id: Label | None = None


class ReadContext(Addressed):
    """How much of a conversation a model is to be shown."""

    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        default=None, description="null: what the default model is known to read, else 4096"
    )
    max_messages: Annotated[StrictInt, Field(ge=1, le=200)] = Field(
        default=50, validation_alias=AliasChoices("max_messages", "limit")
    )
    include_system: StrictBool = True
    include_tool_messages: StrictBool = True


class CreateNamespaceThread(Model):
    """A thread before its first message; ids that the path has must be the same."""

    workspace_id: Name | None = None
    app_id: Name | None = None
    namespace_id: Name | None = None
    thread_id: Name | None = Field(default=None, description="null: one is made")
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    source_ids: Labels = Field(default_factory=list)
    memory_ids: Labels = Field(default_factory=list)
    augmentation_ids: Labels = Field(default_factory=list)
    summary: Annotated[str, Field(max_length=MAX_OBJECT_BYTES)] | None = None
    tags: Labels = Field(default_factory=list)
