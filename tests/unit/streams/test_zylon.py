"""The encoder of the workspace surface: restarts, snapshots, and what comes over the end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from api.streams.zylon import CUT, PING, ZylonEncoder, error_of, stop_reason
from shared.ids import new_id
from shared.turn.events import (
    START,
    AwaitingApproval,
    Event,
    EventBatch,
    MessageDelta,
    OpenCall,
    ReasoningDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnQueued,
    TurnSnapshot,
    TurnStarted,
    Usage,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

NOW = datetime.now(UTC)
STARTED = TurnStarted(attempt=1, model_id="scripted")
AGAIN = TurnStarted(attempt=2, model_id="scripted")
COMPLETED = TurnEnded(status=TurnStatus.COMPLETED, usage=Usage(input_tokens=3, output_tokens=2))


def make_turn() -> Turn:
    return Turn(
        id=new_id(), tenant_id=new_id(), user_id=new_id(), thread_id=new_id(),
        status=TurnStatus.PENDING, attempt=0, accept_seq=1, input_message_id=new_id(),
        planned_output_message_id=new_id(), output_message_id=None, model_id="scripted",
        settings={}, concurrency_key="k", max_running=1, idempotency_key=None, usage=None,
        error=None, worker_id=None, last_seq=0, cancel_requested_at=None, started_at=None,
        ended_at=None, created_at=NOW, updated_at=NOW,
    )  # fmt: skip


def frames(*events: Event) -> list[dict[str, Any]]:
    """What a reader gets of these events, in one batch each."""
    encoder = ZylonEncoder(make_turn(), clock=lambda: 1.5)
    data = encoder.open(START)
    for number, event in enumerate(events, 1):
        data += encoder.encode(EventBatch(1, number, [encode_event(event)]))
    found = []
    for frame in data.decode().split("\n\n")[:-1]:
        head, _, body = frame.partition("\n")
        told = json.loads(body.removeprefix("data: "))
        assert head == f"event: {told['type']}"
        found.append(told)
    return found


def kinds(*events: Event) -> list[str]:
    return [told["type"].removeprefix("content_") for told in frames(*events)]


def test_the_frames_of_a_short_message() -> None:
    start, block, delta, stop, message, end = frames(STARTED, MessageDelta("é\n"), COMPLETED)
    assert start["message"]["content"] == []
    assert start["message"]["role"] == "assistant"
    assert block["content_block"] == {"type": "text", "text": "", "start_timestamp": 1.5}
    assert delta["delta"] == {"type": "text_delta", "text": "é\n"}
    assert (delta["index"], delta["block_id"]) == (0, block["block_id"])
    assert stop["stop_timestamp"] == 1.5
    assert message["delta"] == {"stop_reason": "end_turn"}
    assert message["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert end == {"type": "message_stop"}


def test_consecutive_deltas_share_a_block() -> None:
    assert kinds(STARTED, MessageDelta("a"), MessageDelta("b"), ReasoningDelta("c")) == [
        "message_start", "block_start", "block_delta", "block_delta", "block_stop", "block_start",
        "block_delta",
    ]  # fmt: skip


def test_a_new_attempt_begins_the_message_anew() -> None:
    told = frames(STARTED, MessageDelta("a"), AGAIN, MessageDelta("b"), COMPLETED)
    starts = [index for index, one in enumerate(told) if one["type"] == "message_start"]
    assert len(starts) == 2
    assert told[starts[0]] == told[starts[1]]
    assert told[starts[1] - 1]["type"] == "content_block_stop"
    assert told[starts[1] + 1]["index"] == 0


def test_an_attempt_that_goes_on_repeats_nothing() -> None:
    call = ToolCall(tool_call_id="c", name="pay", args={})
    asked = AwaitingApproval(actions=[OpenCall(tool_call_id="c", name="pay")])
    goes_on = TurnStarted(attempt=2, model_id="scripted", retold=2)
    told = frames(
        STARTED, MessageDelta("a"), call, asked, goes_on, MessageDelta("a"), call,
        ToolResult(tool_call_id="c", result=1), COMPLETED,
    )  # fmt: skip
    blocks = [one["content_block"]["type"] for one in told if "content_block" in one]
    assert blocks == ["text", "tool_use", "tool_result"]
    assert [one["type"] for one in told].count("message_start") == 1


def test_who_comes_after_an_approval_is_told_all_of_it() -> None:
    goes_on = TurnStarted(attempt=2, model_id="scripted", retold=1)
    told = frames(goes_on, MessageDelta("a"), MessageDelta("b"), COMPLETED)
    said = [one["delta"]["text"] for one in told if one["type"] == "content_block_delta"]
    assert said == ["a", "b"]


@pytest.mark.parametrize(
    ("snapshot", "said", "starts"),
    [("abc", ["ab", "c"], 1), ("ab", ["ab"], 1), ("xyz", ["ab", "xyz"], 2), ("", ["ab"], 2)],
)
def test_a_snapshot_is_caught_up_with(snapshot: str, said: list[str], starts: int) -> None:
    told = frames(STARTED, MessageDelta("ab"), TurnSnapshot(text=snapshot), COMPLETED)
    deltas = [one["delta"]["text"] for one in told if one["type"] == "content_block_delta"]
    assert deltas == said
    assert [one["type"] for one in told].count("message_start") == starts


def test_a_failure() -> None:
    failed = TurnEnded(
        status=TurnStatus.FAILED, error=TurnError(code="rate_limited", message="Later")
    )
    told = frames(STARTED, MessageDelta("a"), failed)
    assert told[-2:] == [
        {"type": "error", "error": {"type": "rate_limit_error", "message": "Later"}},
        {"type": "message_stop"},
    ]
    assert told[-3]["type"] == "content_block_stop"


def test_an_expired_turn_has_failed() -> None:
    assert kinds(TurnEnded(status=TurnStatus.EXPIRED)) == ["message_start", "error", "message_stop"]


def test_nothing_follows_the_end() -> None:
    assert kinds(COMPLETED, MessageDelta("a"), COMPLETED) == [
        "message_start", "message_delta", "message_stop",
    ]  # fmt: skip


def test_a_tool_that_failed() -> None:
    told = frames(STARTED, ToolResult(tool_call_id="c", error="No"))
    assert told[1]["content_block"] == {
        "type": "tool_result", "tool_use_id": "c", "content": "No", "is_error": True,
        "start_timestamp": 1.5,
    }  # fmt: skip


def test_what_means_nothing() -> None:
    encoder = ZylonEncoder(make_turn())
    assert encoder.keep_alive() == encoder.queued(3) == PING
    assert encoder.encode(EventBatch(1, 1, [encode_event(TurnQueued(position=1))])) == PING
    assert encoder.reconnect() == CUT
    assert b"data:" not in CUT


@pytest.mark.parametrize("status", list(TurnStatus))
def test_every_status_has_a_stop_reason(status: TurnStatus) -> None:
    reason = stop_reason(status, is_truncated=True)
    expected = {
        TurnStatus.COMPLETED: "max_tokens",
        TurnStatus.CANCELLED: "cancelled",
        TurnStatus.FAILED: "error",
        TurnStatus.EXPIRED: "error",
    }
    assert reason == expected.get(status)


def test_errors_of_unknown_codes_are_ours() -> None:
    assert error_of("poison", "x")["type"] == "api_error"
