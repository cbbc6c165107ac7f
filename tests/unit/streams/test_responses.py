"""The Responses stream by the official types, and its numbers: the same for every reader."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types import responses as types

from api.streams.responses import ResponsesEncoder
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
    TurnSnapshot,
    TurnStarted,
    Usage,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.replay import replay_ended
from shared.turn.state import TERMINAL, TurnStatus
from tests.unit.streams.test_vercel_ui import make_turn

CLASSES: list[tuple[str, Any]] = inspect.getmembers(types, inspect.isclass)
EVENT_OF: dict[str, Any] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for name, model in CLASSES
    if name.endswith("Event") and "type" in model.model_fields
}
COMPLETED = TurnEnded(status=TurnStatus.COMPLETED, usage=Usage(input_tokens=3, output_tokens=2))
CALL = ToolCall(tool_call_id="c", name="pay", args={"euros": 5})
Story = list[tuple[int, list[Event]]]
"""Attempts, and what each of them says."""


def told(turn: Turn, story: Story, *, after: int | None = None, cut: int = 1) -> list[Any]:
    """The frames of a story whose events come in batches of `cut`."""
    encoder = ResponsesEncoder(turn) if after is None else ResponsesEncoder(turn, after=after)
    data = encoder.open(START)
    for attempt, events in story:
        payloads = [encode_event(event) for event in events]
        for first in range(0, len(payloads), cut):
            if not encoder.is_over:
                data += encoder.encode(
                    EventBatch(attempt, first + 1, payloads[first : first + cut])
                )
    return read(data)


def read(data: bytes) -> list[Any]:
    frames = []
    for block in data.split(b"\n\n")[:-1]:
        name, body = block.split(b"\n")
        frame = orjson.loads(body.removeprefix(b"data: "))
        assert name == b"event: " + frame["type"].encode()
        frames.append(frame)
    return frames


def kinds(frames: list[Any]) -> list[str]:
    return [frame["type"].removeprefix("response.") for frame in frames]


def numbers(frames: list[Any]) -> list[int]:
    return [frame["sequence_number"] for frame in frames]


def check(frames: list[Any]) -> ResponseStreamState[Any]:
    """Holds frames against the official types, and gives them to the official accumulator."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for frame in frames:
        event = EVENT_OF[frame["type"]].model_validate(frame, strict=True)
        assert not event.model_extra, event
        if hasattr(event, "response"):
            assert not event.response.model_extra
        state.handle_event(event)
    assert numbers(frames) == sorted(set(numbers(frames)))
    return state


def output_text(frame: Any) -> str:
    return str(types.Response.model_validate(frame["response"]).output_text)


def test_a_plain_answer() -> None:
    said: list[Event] = [MessageDelta("He"), MessageDelta('y"\n')]
    frames = told(make_turn(), [(1, [TurnStarted(attempt=1, model_id="m"), *said, COMPLETED])])
    assert kinds(frames) == [
        "created", "queued", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    check(frames)
    assert [f["response"]["status"] for f in frames[:3]] == ["queued", "queued", "in_progress"]
    assert numbers(frames)[:4] == [0, 1, 16, 32]
    assert frames[7]["text"] == output_text(frames[-1]) == 'Hey"\n'
    assert frames[-1]["response"]["usage"]["total_tokens"] == 5


def test_reasoning_and_tools_are_items() -> None:
    failed = CALL.model_copy(update={"tool_call_id": "d"})
    story: Story = [
        (1, [
            TurnStarted(attempt=1, model_id="m"), ReasoningDelta("hm"), CALL, failed,
            ToolResult(tool_call_id="c", result={"a": 1}), ToolResult(tool_call_id="d", error="no"),
            MessageDelta("ok"), COMPLETED,
        ])
    ]  # fmt: skip
    frames = told(make_turn(), story)
    check(frames)
    output = frames[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "mcp_call", "mcp_call", "message"]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert (output[1]["output"], output[1]["status"]) == ('{"a":1}', "completed")
    assert (output[2]["output"], output[2]["status"]) == (None, "failed")
    assert [f["output_index"] for f in frames if f["type"].endswith("item.added")] == [0, 1, 2, 3]


def test_a_second_attempt_voids_the_first_and_uses_no_number_twice() -> None:
    first: list[Event] = [TurnStarted(attempt=1, model_id="m"), MessageDelta("lost "), CALL]
    second: list[Event] = [TurnStarted(attempt=2, model_id="m"), MessageDelta("kept"), COMPLETED]
    frames = told(make_turn(), [(1, first), (2, second)])
    check(frames)
    begun = [f for f in frames if f["type"] == "response.in_progress"]
    assert [f["response"]["output"] for f in begun] == [[], []]
    assert output_text(frames[-1]) == "kept"
    done = [f["item"]["status"] for f in frames if f["type"] == "response.output_item.done"]
    assert done == ["completed", "incomplete", "completed"]
    assert (
        begun[1]["sequence_number"]
        >= 1_000_000_000
        > numbers(frames)[kinds(frames).index("in_progress")]
    )


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("code", ["model_error", "content_filter", "rate_limited"])
def test_every_end_is_one_event(status: TurnStatus, code: str) -> None:
    error = TurnError(code=code, message="m") if status is TurnStatus.FAILED else None
    end = TurnEnded(status=status, error=error)
    frames = told(
        make_turn(), [(1, [TurnStarted(attempt=1, model_id="m"), MessageDelta("x"), end])]
    )
    check(frames)
    response = frames[-1]["response"]
    shown = {
        TurnStatus.COMPLETED: ("completed", "completed"),
        TurnStatus.CANCELLED: ("incomplete", "cancelled"),
        TurnStatus.EXPIRED: ("failed", "failed"),
        TurnStatus.FAILED: ("incomplete",) * 2 if code == "content_filter" else ("failed",) * 2,
    }[status]
    assert (kinds(frames)[-1], response["status"]) == shown
    assert output_text(frames[-1]) == "x"


def test_an_answer_that_was_cut_is_incomplete() -> None:
    end = COMPLETED.model_copy(update={"truncated": True})
    frames = told(
        make_turn(), [(1, [TurnStarted(attempt=1, model_id="m"), MessageDelta("x"), end])]
    )
    check(frames)
    assert kinds(frames)[-1] == "incomplete"
    assert frames[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def parked_story(*, goes_on: bool) -> Story:
    asked = AwaitingApproval(actions=[OpenCall(tool_call_id="c", name="pay")])
    first: list[Event] = [
        TurnStarted(attempt=1, model_id="m"),
        MessageDelta("May I? "),
        CALL,
        asked,
    ]
    again: list[Event] = [
        TurnStarted(attempt=2, model_id="m", retold=2), MessageDelta("May I? "), CALL,
        ToolResult(tool_call_id="c", result="paid"), MessageDelta("Done."), COMPLETED,
    ]  # fmt: skip
    return [(1, first), (2, again)] if goes_on else [(1, first)]


def test_approvals_end_the_stream_and_another_one_goes_on_at_its_last_number() -> None:
    turn = replace(make_turn(), status=TurnStatus.AWAITING_APPROVAL)
    asked = told(turn, parked_story(goes_on=True))
    check(asked)
    assert kinds(asked)[-1] == "completed"
    response = asked[-1]["response"]
    assert [item["type"] for item in response["output"]] == [
        "message", "mcp_call", "mcp_approval_request",
    ]  # fmt: skip
    assert response["output"][2]["id"] == response["output"][1]["approval_request_id"] == "mcpr_c"
    later = replace(turn, attempt=2, status=TurnStatus.COMPLETED)
    whole = told(later, parked_story(goes_on=True))
    check(whole)
    assert kinds(whole).count("completed") == 1
    last = asked[-1]["sequence_number"]
    rest = told(later, parked_story(goes_on=True), after=last)
    assert rest == [f for f in whole if f["sequence_number"] > last]
    assert set(numbers(asked)) - set(numbers(whole)) == {last}
    assert output_text(rest[-1]) == "May I? Done."
    assert [item["type"] for item in rest[-1]["response"]["output"]] == [
        "message", "mcp_call", "message",
    ]  # fmt: skip
    shown = ResponsesEncoder.of_stored(
        replace(later, parked_count=1),
        [MessageDelta("May I? "), CALL, ToolResult(tool_call_id="c", result="paid"),
         MessageDelta("Done."), COMPLETED],
    ).response()  # fmt: skip
    ids = [item["id"] for item in rest[-1]["response"]["output"]]
    assert [item["id"] for item in shown["output"]] == ids, "Get names the items as the stream did"


SAID = st.lists(
    st.one_of(
        st.text(min_size=1).map(MessageDelta),
        st.text(min_size=1).map(ReasoningDelta),
        st.sampled_from("abc").map(lambda i: ToolCall(tool_call_id=i, name="n", args={"a": 1})),
        st.sampled_from("abc").map(lambda i: ToolResult(tool_call_id=i, result="r")),
    ),
    max_size=12,
)


@given(st.lists(SAID, min_size=1, max_size=3), st.integers(1, 5), st.data())
def test_whatever_is_told_a_reader_that_comes_again_gets_exactly_the_rest(
    attempts: list[list[Event]], cut: int, data: st.DataObject
) -> None:
    story: Story = [
        (number, [TurnStarted(attempt=number, model_id="m"), *said])
        for number, said in enumerate(attempts, 1)
    ]
    story[-1][1].append(COMPLETED)
    turn = make_turn()
    whole = told(turn, story)
    check(whole)
    assert output_text(whole[-1]) == "".join(
        event.text for event in attempts[-1] if isinstance(event, MessageDelta)
    )
    after = data.draw(st.sampled_from(numbers(whole)))
    rest = told(turn, story, after=after, cut=cut)
    expected = [frame for frame in whole if frame["sequence_number"] > after]
    for frames in (rest, expected):
        for frame in frames:
            frame.get("response", {}).pop("completed_at", None)
    assert rest == expected


def test_once_the_log_is_gone_the_end_keeps_its_number_and_holds_the_whole_text() -> None:
    ended = replace(make_turn(), status=TurnStatus.COMPLETED, last_seq=5, usage=Usage())
    live = told(
        ended,
        [(1, [TurnStarted(attempt=1, model_id="m"), MessageDelta("a"), MessageDelta("b"),
              MessageDelta("c"), COMPLETED])],
    )  # fmt: skip
    encoder = ResponsesEncoder(ended, after=live[6]["sequence_number"])
    data = encoder.open(START)
    for batch in replay_ended(ended, "abc", "", START):
        data += encoder.encode(batch)
    rest = read(data)
    assert kinds(rest) == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert numbers(rest) == numbers(live)[-4:]
    assert output_text(rest[-1]) == "abc"


@pytest.mark.parametrize(("text", "told_again"), [("abcd", "cd"), ("ab", ""), ("xy", "xy")])
def test_a_log_lost_under_a_reader_is_caught_up_with(text: str, told_again: str) -> None:
    encoder = ResponsesEncoder(make_turn())
    data = encoder.open(START)
    events: list[Event] = [
        TurnStarted(attempt=1, model_id="m"),
        MessageDelta("a"),
        MessageDelta("b"),
    ]
    data += encoder.encode(EventBatch(1, 1, [encode_event(event) for event in events]))
    data += encoder.encode(EventBatch(1, 0, [encode_event(TurnSnapshot(text=text))]))
    data += encoder.encode(EventBatch(1, 9, [encode_event(COMPLETED)]))
    frames = read(data)
    check(frames)
    assert output_text(frames[-1]) == text
    deltas = [f["delta"] for f in frames if f["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "ab" + told_again
