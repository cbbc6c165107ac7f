"""A turn told from what Postgres holds of it, when its event log is gone: as few events as say it.

Only the last event has a place to resume from; those before it have seq 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.turn.events import (
    AwaitingApproval,
    Cursor,
    Event,
    EventBatch,
    MessageDelta,
    OpenCall,
    ReasoningDelta,
    ToolCall,
    TurnEnded,
    TurnError,
    TurnSnapshot,
    TurnStarted,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.retell import retell


def replay_parked(
    turn: Turn, raws: Sequence[dict[str, Any] | None], after: Cursor
) -> list[EventBatch]:
    """What a parked turn has said behind `after`, from the `raw_data` of its messages."""
    last = Cursor(turn.attempt, turn.last_seq)
    if after >= last:
        return []
    told = retell(raws)
    if after.attempt == turn.attempt and after.seq > 0:
        text = "".join(event.text for event in told if isinstance(event, MessageDelta))
        reasoning = "".join(event.text for event in told if isinstance(event, ReasoningDelta))
        open_calls = {approval.tool_call_id for approval in turn.approvals}
        events: list[Event] = [
            TurnSnapshot(text=text, reasoning=reasoning),
            # What is asked about may have been lost with the log.
            *(e for e in told if isinstance(e, ToolCall) and e.tool_call_id in open_calls),
        ]
    else:
        events = [TurnStarted(attempt=turn.attempt, model_id=turn.model_id), *told]
    batches = [EventBatch(turn.attempt, 0, [encode_event(event)]) for event in events]
    return [*batches, EventBatch(*last, [encode_event(awaiting_event(turn))])]


def replay_ended(
    turn: Turn, text: str, reasoning: str, after: Cursor, *, truncated: bool = False
) -> list[EventBatch]:
    """What a turn that has ended said behind `after`."""
    attempt = max(turn.attempt, 1)
    payloads: list[bytes] = []
    has_spoken = turn.started_at is not None or bool(text)
    if has_spoken and (after.attempt < attempt or after.seq == 0):
        payloads.append(encode_event(TurnStarted(attempt=attempt, model_id=turn.model_id)))
        if reasoning:
            payloads.append(encode_event(ReasoningDelta(text=reasoning)))
        if text:
            payloads.append(encode_event(MessageDelta(text=text)))
    elif has_spoken and after.seq < turn.last_seq:
        payloads.append(encode_event(TurnSnapshot(text=text, reasoning=reasoning)))
    batches = [EventBatch(attempt, 0, [payload]) for payload in payloads]
    end = EventBatch(attempt, max(turn.last_seq, 1), [encode_event(ended_event(turn, truncated))])
    return [*batches, end]


def ended_event(turn: Turn, truncated: bool = False) -> TurnEnded:
    """The `turn.ended` of a turn in a terminal status."""
    return TurnEnded(
        status=turn.status,
        error=None if turn.error is None else TurnError.model_validate(turn.error),
        usage=turn.usage,
        output_message_id=None if turn.output_message_id is None else str(turn.output_message_id),
        duration_s=turn.duration_s,
        truncated=True if truncated else None,
    )


def reasoning_of(raw: dict[str, Any] | None) -> str:
    """The model's reasoning in a message's `raw_data`."""
    parts = raw.get("parts") if raw else None
    if not isinstance(parts, list):
        return ""
    return "".join(str(p.get("content", "")) for p in parts if p.get("part_kind") == "thinking")


def awaiting_event(turn: Turn) -> AwaitingApproval:
    """The `turn.awaiting_approval` of a parked turn."""
    calls = [OpenCall(tool_call_id=a.tool_call_id, name=a.tool_name) for a in turn.approvals]
    expires_at = turn.approvals[0].expires_at if turn.approvals else None
    return AwaitingApproval(actions=calls, expires_at=expires_at)
