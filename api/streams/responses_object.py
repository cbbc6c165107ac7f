"""The response object of the OpenAI Responses API: a turn, and what its request has asked for.

Specification: https://platform.openai.com/docs/api-reference/responses/object, held against the
types of the `openai` package 3.52 in tests.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.turn.events import TurnError, Usage
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

ASKED: Final = "responses"
"""Under this name a turn's settings hold what only this protocol asks for."""
SERVER_LABEL: Final = "turnkeep"
"""Of tool calls: the server has made them, the client need not."""
APPROVAL_PREFIX: Final = "mcpr_"
_HEX: Final = re.compile(r"[0-9a-f]{32}")
_ITEM: Final = re.compile(r"msg_[0-9a-f]{38,}")
_STATUS: Final = {
    TurnStatus.PENDING: "queued",
    TurnStatus.RUNNING: "in_progress",
    # As with OpenAI: it asks for approvals, and goes on in what is asked for next.
    TurnStatus.AWAITING_APPROVAL: "completed",
    TurnStatus.COMPLETED: "completed",
    TurnStatus.FAILED: "failed",
    TurnStatus.CANCELLED: "cancelled",
    TurnStatus.EXPIRED: "failed",
}


def response_id(turn_id: UUID) -> str:
    return f"resp_{turn_id.hex}"


def conversation_id(thread_id: UUID) -> str:
    return f"conv_{thread_id.hex}"


def message_id(message_id: UUID) -> str:
    """Of a message as an item of input, or of a conversation."""
    return f"msg_{message_id.hex}"


def approval_id(tool_call_id: str) -> str:
    """Of the request for an approval of a tool call."""
    return f"{APPROVAL_PREFIX}{tool_call_id}"


def read_id(text: str, prefix: str) -> UUID | None:
    """Inverse of the above; None when `text` is no such id."""
    head, _, rest = text.partition("_")
    return UUID(rest) if head == prefix and _HEX.fullmatch(rest) else None


def output_item_id(prefix: str, answer_id: UUID, attempt: int, number: int) -> str:
    """Of an item of a response: the id of the turn's answer, and which of its items it is."""
    return f"{prefix}_{answer_id.hex}{attempt:02x}{number:04x}"


def read_message_id(text: str) -> UUID | None:
    """The message behind an item: of a response's item the turn's answer; None: no such id."""
    is_of_response = _ITEM.fullmatch(text) is not None
    return read_id(text[: len("msg_") + 32] if is_of_response else text, "msg")


class Asked(BaseModel):
    """What a request for a response holds beyond a turn's own settings."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    background: bool = False
    metadata: dict[str, str] = Field(default_factory=dict)
    instructions: str | None = None
    previous_response_id: str | None = None
    made_thread: bool = False
    """The thread was made for it, as no conversation was named."""

    @classmethod
    def of(cls, turn: Turn) -> Asked:
        """What was asked; the defaults for turns of other surfaces."""
        try:
            return cls.model_validate(turn.settings.get(ASKED, {}))
        except ValidationError:
            return cls()


class Outcome(NamedTuple):
    """How a response stands: its status, and why, as far as there is a reason."""

    status: str
    error: dict[str, Any] | None = None
    incomplete: dict[str, str] | None = None


def outcome_of(status: TurnStatus, error: TurnError | None, *, truncated: bool) -> Outcome:
    """The outcome of a turn in `status`."""
    if status is TurnStatus.COMPLETED and truncated:
        return Outcome("incomplete", incomplete={"reason": "max_output_tokens"})
    if status is TurnStatus.FAILED and error is not None and error.code == "content_filter":
        return Outcome("incomplete", incomplete={"reason": "content_filter"})
    if _STATUS[status] != "failed":
        return Outcome(_STATUS[status])
    code = error.code if error else str(status)
    message = error.message if error else "The response was not started in time"
    known = "rate_limit_exceeded" if code == "rate_limited" else "server_error"
    return Outcome("failed", {"code": known, "message": message, "type": code})


def response_object(turn: Turn, outcome: Outcome, output: list[Any], usage: Usage | None) -> Any:
    """The object; `completed_at` is the turn's end, as far as `turn` knows it."""
    asked, settings = Asked.of(turn), turn.settings
    ended_at = turn.ended_at if outcome.status == "completed" else None
    return {
        "id": response_id(turn.id),
        "object": "response",
        "created_at": int(turn.created_at.timestamp()),
        "status": outcome.status,
        "background": asked.background,
        "completed_at": None if ended_at is None else int(ended_at.timestamp()),
        "conversation": {"id": conversation_id(turn.thread_id)},
        "error": outcome.error,
        "incomplete_details": outcome.incomplete,
        "instructions": asked.instructions,
        "max_output_tokens": _number(settings.get("maxTokens")),
        "metadata": asked.metadata,
        "model": turn.model_id,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": asked.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "temperature": _number(settings.get("temperature")),
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": _number(settings.get("topP")),
        "truncation": "auto",
        "usage": None if usage is None else _usage(usage),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _number(value: Any) -> float | int | None:
    """A setting that is a number: of other surfaces it may be anything."""
    return value if type(value) in (int, float) else None
