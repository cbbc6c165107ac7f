"""Approvals in the UI message stream of AI SDK 6: ask and end, then go on in the same message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from api.streams.vercel_ui import VercelUIEncoder
from shared.turn.events import (
    START,
    AwaitingApproval,
    Event,
    EventBatch,
    MessageDelta,
    OpenCall,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnSnapshot,
    TurnStarted,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TurnStatus
from tests.unit.streams.test_vercel_ui import make_turn

CALL = ToolCall(tool_call_id="c", name="pay", args={"euros": 5})
ASKING = (
    TurnStarted(attempt=1, model_id="m"),
    MessageDelta("Let me. "),
    CALL,
    AwaitingApproval(actions=[OpenCall(tool_call_id="c", name="pay")]),
)
GOING_ON = (
    TurnStarted(attempt=2, model_id="m", retold=2),
    MessageDelta("Let me. "),
    CALL,
    ToolResult(tool_call_id="c", result="paid"),
    MessageDelta("Done."),
    TurnEnded(status=TurnStatus.COMPLETED),
)


def encode(encoder: VercelUIEncoder, *events: Event, attempt: int = 1) -> list[Any]:
    data = encoder.encode(EventBatch(attempt, 1, [encode_event(event) for event in events]))
    frames = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n") if frame]
    return ["[DONE]" if frame == b"[DONE]" else orjson.loads(frame) for frame in frames]


def encoder_of(turn: Turn, *, is_continued: bool = False) -> VercelUIEncoder:
    encoder = VercelUIEncoder(turn, is_continued=is_continued)
    encoder.open(START)
    return encoder


def kinds(frames: list[Any]) -> list[str]:
    return [frame if isinstance(frame, str) else frame["type"] for frame in frames]


def test_asking_ends_the_stream() -> None:
    encoder = encoder_of(make_turn())
    frames = encode(encoder, *ASKING)
    assert kinds(frames) == [
        "start-step", "text-start", "text-delta", "text-end", "tool-input-start",
        "tool-input-available", "tool-approval-request", "finish-step", "finish", "[DONE]",
    ]  # fmt: skip
    assert frames[6] == {"type": "tool-approval-request", "approvalId": "c", "toolCallId": "c"}
    assert frames[8]["finishReason"] == "tool-calls"
    assert encoder.is_over
    assert encode(encoder, *GOING_ON) == [], "nothing follows [DONE]"


def test_what_the_client_knows_is_not_said_again() -> None:
    frames = encode(encoder_of(make_turn(), is_continued=True), *GOING_ON, attempt=2)
    assert kinds(frames) == [
        "tool-output-available", "start-step", "text-start", "text-delta", "text-end",
        "finish-step", "finish", "[DONE]",
    ]  # fmt: skip
    assert frames[0] == {"type": "tool-output-available", "toolCallId": "c", "output": "paid"}


def test_a_denied_call_is_told_as_denied() -> None:
    denied = ToolResult(tool_call_id="c", error="too dear", denied=True)
    events = (*GOING_ON[:3], denied, *GOING_ON[4:])
    frames = encode(encoder_of(make_turn(), is_continued=True), *events, attempt=2)
    assert frames[0] == {"type": "tool-output-denied", "toolCallId": "c"}


def test_a_late_reader_is_not_asked_what_was_decided() -> None:
    for status, attempt in ((TurnStatus.RUNNING, 2), (TurnStatus.PENDING, 1)):
        encoder = encoder_of(replace(make_turn(), status=status, attempt=attempt))
        frames = encode(encoder, *ASKING) + encode(encoder, *GOING_ON, attempt=2)
        assert "tool-approval-request" not in kinds(frames)
        assert kinds(frames)[-2:] == ["finish", "[DONE]"]
        texts = [f["delta"] for f in frames[:-1] if f["type"] == "text-delta"]
        assert texts == ["Let me. ", "Done."], "once"


def test_an_attempt_that_was_lost_behind_the_approval_is_told_anew() -> None:
    encoder = encoder_of(make_turn(), is_continued=True)
    lost = encode(encoder, *GOING_ON[:5], attempt=2)
    assert kinds(lost)[-1] == "text-delta"
    again = (TurnStarted(attempt=3, model_id="m", retold=2), *GOING_ON[1:])
    frames = encode(encoder, *again, attempt=3)
    assert "data-turn-attempt" in kinds(frames)
    texts = [f["delta"] for f in frames[:-1] if f["type"] == "text-delta"]
    assert texts == ["Let me. ", "Done."], "all that counts stands behind the mark"


def test_a_turn_that_ended_and_lost_its_log_is_told_anew() -> None:
    encoder = encoder_of(make_turn(), is_continued=True)
    told = (TurnStarted(attempt=2, model_id="m"), MessageDelta("Let me. Done."), GOING_ON[-1])
    frames = encode(encoder, *told, attempt=2)
    assert kinds(frames)[0] == "data-turn-attempt"


def test_a_snapshot_adds_only_what_is_missing() -> None:
    encoder = encoder_of(make_turn(), is_continued=True)
    encode(encoder, *GOING_ON[:5], attempt=2)
    frames = encode(encoder, TurnSnapshot(text="Let me. Done. And more."), attempt=2)
    assert [f["delta"] for f in frames if f["type"] == "text-delta"] == [" And more."]


def test_a_turn_may_ask_again() -> None:
    encoder = encoder_of(make_turn(), is_continued=True)
    more = AwaitingApproval(actions=[OpenCall(tool_call_id="d", name="pay")])
    call = ToolCall(tool_call_id="d", name="pay", args={})
    frames = encode(encoder, *GOING_ON[:4], call, more, attempt=2)
    assert kinds(frames) == [
        "tool-output-available", "start-step", "tool-input-start", "tool-input-available",
        "tool-approval-request", "finish-step", "finish", "[DONE]",
    ]  # fmt: skip
