"""The UI message stream: frames in the order the AI SDK expects, whatever the turn does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.streams.vercel_ui import VercelUIEncoder
from shared.ids import new_id
from shared.turn.events import (
    START,
    Event,
    EventBatch,
    MessageDelta,
    ReasoningDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnSnapshot,
    TurnStarted,
    Usage,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

STARTED = TurnStarted(attempt=1, model_id="scripted")
COMPLETED = TurnEnded(status=TurnStatus.COMPLETED, usage=Usage(output_tokens=2))


def make_turn() -> Turn:
    now = datetime.now(UTC)
    return Turn(
        id=new_id(),
        tenant_id=new_id(),
        user_id=new_id(),
        thread_id=new_id(),
        status=TurnStatus.RUNNING,
        attempt=1,
        accept_seq=1,
        input_message_id=new_id(),
        planned_output_message_id=new_id(),
        output_message_id=None,
        model_id="scripted",
        settings={},
        concurrency_key="k",
        max_running=1,
        idempotency_key=None,
        usage=None,
        error=None,
        worker_id="w",
        last_seq=0,
        cancel_requested_at=None,
        started_at=now,
        ended_at=None,
        created_at=now,
        updated_at=now,
    )


def frames_of(*events: Event) -> list[dict[str, Any] | str]:
    encoder = VercelUIEncoder(make_turn())
    encoder.open(START)
    data = encoder.encode(EventBatch(1, 1, [encode_event(event) for event in events]))
    frames: list[dict[str, Any] | str] = []
    for block in data.split(b"\n\n")[:-1]:
        assert block.startswith(b"data: ")
        body = block.removeprefix(b"data: ")
        frames.append("[DONE]" if body == b"[DONE]" else orjson.loads(body))
    return frames


def types_of(*events: Event) -> list[str]:
    return [f if isinstance(f, str) else f["type"] for f in frames_of(*events)]


def test_a_plain_answer_is_one_step_with_one_text_part() -> None:
    assert types_of(STARTED, MessageDelta(text="a"), MessageDelta(text="b"), COMPLETED) == [
        "start-step",
        "text-start",
        "text-delta",
        "text-delta",
        "text-end",
        "finish-step",
        "finish",
        "[DONE]",
    ]


def test_the_first_frame_names_the_message_and_the_turn() -> None:
    turn = make_turn()
    first = orjson.loads(VercelUIEncoder(turn).open(START).removeprefix(b"data: "))
    assert first["messageId"] == str(turn.planned_output_message_id)
    assert first["messageMetadata"]["turnId"] == str(turn.id)


def test_finish_carries_usage() -> None:
    finish = frames_of(STARTED, COMPLETED)[-2]
    assert isinstance(finish, dict)
    assert finish["finishReason"] == "stop"
    assert finish["messageMetadata"]["usage"]["outputTokens"] == 2


def test_reasoning_closes_before_text_opens() -> None:
    assert types_of(STARTED, ReasoningDelta(text="r"), MessageDelta(text="a"), COMPLETED)[1:6] == [
        "reasoning-start",
        "reasoning-delta",
        "reasoning-end",
        "text-start",
        "text-delta",
    ]


def test_text_after_a_tool_result_is_a_new_step() -> None:
    call = ToolCall(tool_call_id="t", name="add", args={"a": 1})
    assert types_of(
        STARTED, call, ToolResult(tool_call_id="t", result=2), MessageDelta(text="2"), COMPLETED
    ) == [
        "start-step",
        "tool-input-start",
        "tool-input-available",
        "tool-output-available",
        "finish-step",
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "finish-step",
        "finish",
        "[DONE]",
    ]


def test_a_failed_tool_says_so() -> None:
    call = ToolCall(tool_call_id="t", name="add", args={})
    assert "tool-output-error" in types_of(STARTED, call, ToolResult(tool_call_id="t", error="no"))


def test_a_failure_is_error_then_finish() -> None:
    failed = TurnEnded(
        status=TurnStatus.FAILED, error=TurnError(code="model_error", message="broken")
    )
    frames = frames_of(STARTED, MessageDelta(text="a"), failed)
    assert [f if isinstance(f, str) else f["type"] for f in frames][-4:] == [
        "error",
        "finish-step",
        "finish",
        "[DONE]",
    ]
    assert isinstance(frames[-4], dict)
    assert frames[-4]["errorText"] == "broken"


def test_a_cancel_is_abort_without_finish() -> None:
    types = types_of(STARTED, MessageDelta(text="a"), TurnEnded(status=TurnStatus.CANCELLED))
    assert types[-3:] == ["abort", "finish-step", "[DONE]"]
    assert "finish" not in types


def test_a_turn_cancelled_before_its_start_has_no_step() -> None:
    assert types_of(TurnEnded(status=TurnStatus.CANCELLED)) == ["abort", "[DONE]"]


def test_a_second_attempt_is_announced_between_parts() -> None:
    second = TurnStarted(attempt=2, model_id="scripted")
    assert types_of(STARTED, MessageDelta(text="a"), second, MessageDelta(text="b")) == [
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "finish-step",
        "data-turn-attempt",
        "start-step",
        "text-start",
        "text-delta",
    ]


@pytest.mark.parametrize(("said", "missing"), [("Hel", "lo"), ("Hello", None)])
def test_a_snapshot_adds_only_what_was_not_said(said: str, missing: str | None) -> None:
    frames = frames_of(STARTED, MessageDelta(text=said), TurnSnapshot(text="Hello"))
    deltas = [f["delta"] for f in frames if isinstance(f, dict) and f["type"] == "text-delta"]
    assert deltas == ([said] if missing is None else [said, missing])


@given(
    st.lists(
        st.one_of(
            st.builds(MessageDelta, text=st.text()),
            st.builds(ReasoningDelta, text=st.text()),
            st.sampled_from(
                [
                    MessageDelta(text='"}\n{"type":"message.delta","text":"'),
                    MessageDelta(text=""),
                    ToolCall(tool_call_id="c", name="n", args={}),
                    ToolResult(tool_call_id="c", result="}\n"),
                ]
            ),
        )
    )
)
def test_a_batch_has_the_frames_of_its_events_one_by_one(events: list[Event]) -> None:
    payloads = [encode_event(event) for event in (STARTED, *events)]
    alone = VercelUIEncoder(make_turn())
    frames = [
        alone.encode(EventBatch(1, seq, [payload])) for seq, payload in enumerate(payloads, 1)
    ]
    together = VercelUIEncoder(make_turn())
    assert together.encode(EventBatch(1, 1, payloads)) == b"".join(frames)
    said = "".join(event.text for event in events if isinstance(event, MessageDelta))
    snapshot = encode_event(TurnSnapshot(text=said + "!"))
    caught_up = together.encode(EventBatch(1, 99, [snapshot]))
    assert caught_up.count(b'"text-delta"') == 1
    assert b'"delta":"!"' in caught_up
