"""THE event union: what a turn says while it runs. Stored once, encoded in `api/streams`.

An event's place is `attempt-seq`: `attempt` is the fencing token of the claim that wrote it, `seq`
counts 1, 2, 3 … within the attempt. `turn.started` opens an attempt, `turn.ended` is always last.
Each attempt tells the whole turn: one that goes on after an approval repeats what led up to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.turn.state import TurnStatus


class _Event(BaseModel):
    # Members that are not known are passed over: a newer release's worker may say more.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class TurnQueued(_Event):
    """The turn waits. Said by the API to a reader that joins early; never stored."""

    type: Literal["turn.queued"] = "turn.queued"
    position: int
    """Turns of the same concurrency key that go first; 100 means 100 or more."""


class TurnStarted(_Event):
    """A worker begins an attempt. Text of earlier attempts is void.

    An attempt that goes on after an approval tells first what was told before: `retold` says how
    many of the events that follow do so.
    """

    type: Literal["turn.started"] = "turn.started"
    attempt: int
    model_id: str = Field(alias="modelId")
    retold: int | None = None


@dataclass(slots=True)
class MessageDelta:
    """A piece of the answer. A plain dataclass, like the other delta: there are many of them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    text: str
    type: Literal["message.delta"] = "message.delta"


@dataclass(slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    text: str
    type: Literal["reasoning.delta"] = "reasoning.delta"


class ToolCall(_Event):
    type: Literal["tool.call"] = "tool.call"
    tool_call_id: str = Field(alias="toolCallId")
    name: str
    args: dict[str, Any]


class ToolResult(_Event):
    """Exactly one of `result` and `error` is meaningful: `error` is None on success.

    `denied`: somebody did not want the call to be made; `error` is what the model was told.
    """

    type: Literal["tool.result"] = "tool.result"
    tool_call_id: str = Field(alias="toolCallId")
    result: Any = None
    error: str | None = None
    denied: Literal[True] | None = None


class OpenCall(_Event):
    """A tool call to approve. Its arguments stand in the `tool.call` before, and in Get Turn."""

    tool_call_id: str = Field(alias="toolCallId")
    name: str


class AwaitingApproval(_Event):
    """The turn is parked: the last event of its attempt, until somebody decides.

    The next attempt tells of the decisions, or `turn.ended` follows.
    """

    type: Literal["turn.awaiting_approval"] = "turn.awaiting_approval"
    actions: list[OpenCall]
    expires_at: datetime | None = Field(default=None, alias="expiresAt")


class TurnSnapshot(_Event):
    """Replaces all text of the turn so far: sent when the log was lost under an open stream."""

    type: Literal["turn.snapshot"] = "turn.snapshot"
    text: str
    reasoning: str = ""


class Usage(_Event):
    """Sums over all model calls of the turn. `total_cost` is decimal US dollars as a string."""

    input_tokens: int = Field(default=0, alias="inputTokens")
    output_tokens: int = Field(default=0, alias="outputTokens")
    cached_input_tokens: int = Field(default=0, alias="cachedInputTokens")
    total_cost: str | None = Field(default=None, alias="totalCost")

    def __add__(self, other: Usage | None) -> Usage:
        """The sum of two attempts; of the cost what is known."""
        if other is None:
            return self
        costs = [cost for cost in (self.total_cost, other.total_cost) if cost is not None]
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            total_cost=format(sum(map(Decimal, costs), Decimal()), "f") if costs else None,
        )


class TurnError(_Event):
    code: str
    message: str


class TurnEnded(_Event):
    """Always last, exactly once."""

    type: Literal["turn.ended"] = "turn.ended"
    status: TurnStatus
    error: TurnError | None = None
    usage: Usage | None = None
    output_message_id: str | None = Field(default=None, alias="outputMessageId")
    duration_s: float | None = Field(default=None, alias="durationSeconds")
    truncated: Literal[True] | None = None
    """The model stopped because it may say no more, not because it was done."""


Event = Annotated[
    TurnQueued
    | TurnStarted
    | MessageDelta
    | ReasoningDelta
    | ToolCall
    | ToolResult
    | AwaitingApproval
    | TurnSnapshot
    | TurnEnded,
    Field(discriminator="type"),
]

EVENT_ADAPTER: Final[TypeAdapter[Event]] = TypeAdapter(Event)


MESSAGE_DELTA_HEAD: Final = b'{"type":"message.delta","text":'
"""An encoded `MessageDelta` is this, the text as a JSON string, and `}`: encoders rely on it."""
REASONING_DELTA_HEAD: Final = b'{"type":"reasoning.delta","text":'


def encode_event(event: Event) -> bytes:
    """One event as compact JSON on one line (no raw newline can occur inside)."""
    if isinstance(event, MessageDelta):
        return b"%b%b}" % (MESSAGE_DELTA_HEAD, orjson.dumps(event.text))
    if isinstance(event, ReasoningDelta):
        return b"%b%b}" % (REASONING_DELTA_HEAD, orjson.dumps(event.text))
    return event.__pydantic_serializer__.to_json(event, by_alias=True, exclude_none=True)


def decode_event(payload: bytes | str) -> Event:
    """Inverse of `encode_event`.

    Raises:
        pydantic.ValidationError: not an event of the union.
    """
    return EVENT_ADAPTER.validate_json(payload)


class Cursor(NamedTuple):
    """A place in a turn's event log: the SSE `id:`, the stream id and the resume cursor."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The cursor, or None when `text` is not one."""
        match = _CURSOR.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None


START: Final = Cursor(0, 0)
_CURSOR: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


class EventBatch(NamedTuple):
    """Consecutive encoded events of one attempt: `payloads[i]` has seq `first_seq + i`."""

    attempt: int
    first_seq: int
    payloads: list[bytes]

    @property
    def last(self) -> Cursor:
        return Cursor(self.attempt, self.first_seq + len(self.payloads) - 1)

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.payloads))

    def after(self, cursor: Cursor) -> EventBatch | None:
        """The part of the batch behind `cursor`, or None when nothing is."""
        if self.last <= cursor:
            return None
        if cursor.attempt < self.attempt or cursor.seq < self.first_seq:
            return self
        skip = cursor.seq - self.first_seq + 1
        return EventBatch(self.attempt, cursor.seq + 1, self.payloads[skip:])


def is_ended(payload: bytes) -> bool:
    """Whether an encoded event is `turn.ended`, without decoding it."""
    return payload.startswith(_ENDED_PREFIX)


def is_parked(payload: bytes) -> bool:
    """Whether an encoded event is `turn.awaiting_approval`, without decoding it."""
    return payload.startswith(_PARKED_PREFIX)


_PARKED_PREFIX: Final = b'{"type":"turn.awaiting_approval"'
_ENDED_PREFIX: Final = b'{"type":"turn.ended"'
