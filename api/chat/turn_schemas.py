"""Turns of the primary surface: as they are shown, listed, cancelled and decided."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, StrictBool

from api.limits import (
    MAX_CALL_ID_CHARS,
    MAX_DECISIONS,
    MAX_REASON_CHARS,
    MAX_TEXT_CHARS,
)
from api.request_headers import MAX_KEY_CHARS
from api.validation import QueryInt
from api.wire import Model as _Model
from api.wire import id_text as _id
from api.wire import instant as _time
from api.wire import to_json
from shared.turn.approval import Decision
from shared.turn.approval import OpenApproval as StoredApproval
from shared.turn.model import Turn as StoredTurn
from shared.turn.state import TurnStatus


class Usage(_Model):
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_cost: str | None = Field(description="Decimal US dollars, such as 0.001230")


class TurnError(_Model):
    code: str
    message: str


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


class TurnList(_Model):
    items: list[Turn]
    next_cursor: str | None


class TurnListQuery(_Model):
    limit: QueryInt = Field(default=20, ge=1, le=100)
    cursor: str | None = None
    status: TurnStatus | None = None
    concurrency_key: str | None = Field(default=None, min_length=1, max_length=MAX_KEY_CHARS)


class TurnQuery(_Model):
    after: str | None = Field(default=None, description="Cursor: the id of the last event seen")


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


def turn_to_json(turn: StoredTurn) -> bytes:
    """A turn as the JSON object `Turn` describes."""
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
