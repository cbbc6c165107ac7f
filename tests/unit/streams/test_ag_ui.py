"""The AG-UI stream by the official types, in an order that its clients accept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from ag_ui.core import PROTOCOL_VERSION, Event, EventType
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from api.streams import ag_ui
from api.streams.ag_ui import AgUiEncoder
from shared.turn.events import (
    START,
    AwaitingApproval,
    EventBatch,
    MessageDelta,
    OpenCall,
    ReasoningDelta,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnSnapshot,
    TurnStarted,
    Usage,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TERMINAL, TurnStatus
from tests.unit.streams.test_responses import CALL, COMPLETED, SAID, Story, parked_story
from tests.unit.streams.test_vercel_ui import make_turn

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
STARTED = TurnStarted(attempt=1, model_id="m")


def told(turn: Turn, story: Story, *, is_continued: bool = False) -> list[Any]:
    encoder = AgUiEncoder(turn, "t", "r", is_continued=is_continued)
    data = encoder.open(START) + encoder.queued(3)
    for attempt, events in story:
        if not encoder.is_over:
            batch = EventBatch(attempt, 1, [encode_event(event) for event in events])
            data += encoder.encode(batch)
    return read(data + encoder.keep_alive())


def read(data: bytes) -> list[Any]:
    blocks = [block for block in data.split(b"\n\n") if block.startswith(b"data: ")]
    events = [EVENT.validate_json(block.removeprefix(b"data: ")) for block in blocks]
    for event in events:
        assert not event.model_extra, event
    return events


def kinds(events: list[Any]) -> list[str]:
    return [event.type.value for event in events]


def text_of(events: list[Any]) -> str:
    """What a client shows of the last attempt."""
    text = ""
    for event in events:
        if event.type is EventType.CUSTOM and event.name == "turn.attempt":
            text = ""
        elif event.type is EventType.TEXT_MESSAGE_CONTENT:
            text += event.delta
    return text


def require_order(events: list[Any]) -> None:
    """What is opened is closed, nothing is open twice, and exactly one event ends the run."""
    open_ids: set[tuple[str, str]] = set()
    begun: set[tuple[str, str]] = set()
    for event in events:
        name = event.type.value
        kind, _, what = name.rpartition("_")
        if kind in {"TEXT_MESSAGE", "REASONING", "REASONING_MESSAGE", "TOOL_CALL"}:
            place = (kind, getattr(event, "message_id", None) or event.tool_call_id)
            if what == "START":
                assert place not in begun
                open_ids.add(place)
                begun.add(place)
            elif what == "END":
                open_ids.remove(place)
            elif what != "RESULT":
                assert place in open_ids
    assert not open_ids
    ends = [name for name in kinds(events) if name in {"RUN_FINISHED", "RUN_ERROR"}]
    assert len(ends) == 1
    assert kinds(events)[-1] == ends[0]
    assert kinds(events)[0] == "RUN_STARTED"


def test_it_speaks_the_version_of_the_official_types() -> None:
    assert ag_ui.PROTOCOL_VERSION == PROTOCOL_VERSION


def test_a_plain_run() -> None:
    events = told(
        make_turn(),
        [
            (
                1,
                [
                    STARTED,
                    ReasoningDelta("hm"),
                    MessageDelta('Hey "'),
                    MessageDelta("you"),
                    COMPLETED,
                ],
            )
        ],
    )
    assert kinds(events) == [
        "RUN_STARTED", "CUSTOM", "REASONING_START", "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END", "REASONING_END",
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]  # fmt: skip
    require_order(events)
    assert (events[0].thread_id, events[0].run_id) == ("t", "r")
    assert text_of(events) == 'Hey "you'
    assert events[-1].outcome.type == "success"
    assert events[-1].usage[0].output_tokens == 2


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_every_end_is_one_event(status: TurnStatus) -> None:
    error = TurnError(code="c", message="m") if status is TurnStatus.FAILED else None
    end = TurnEnded(status=status, error=error, usage=Usage(output_tokens=1))
    events = told(make_turn(), [(1, [STARTED, MessageDelta("x"), end])])
    require_order(events)
    ended = {"completed": "success", "cancelled": "cancelled"}
    if status in ended:
        assert events[-1].outcome.type == ended[status]
    else:
        assert events[-1].code == ("c" if error else "expired")


def test_tools_and_their_results() -> None:
    events = told(
        make_turn(),
        [(1, [STARTED, MessageDelta("a"), CALL, ToolResult(tool_call_id="c", result={"x": 1}),
              MessageDelta("b"), COMPLETED])],
    )  # fmt: skip
    require_order(events)
    result = next(e for e in events if e.type is EventType.TOOL_CALL_RESULT)
    assert (result.tool_call_id, orjson.loads(result.content)) == ("c", {"x": 1})
    ids = [e.message_id for e in events if hasattr(e, "message_id")]
    assert len(set(ids)) == 3


def test_approvals_are_interrupts_and_the_next_run_goes_on() -> None:
    turn = replace(make_turn(), status=TurnStatus.AWAITING_APPROVAL)
    asked = told(turn, parked_story(goes_on=False))
    require_order(asked)
    (interrupt,) = asked[-1].outcome.interrupts
    assert (interrupt.id, interrupt.reason, interrupt.tool_call_id) == ("c", "tool_call", "c")
    assert interrupt.response_schema["required"] == ["approved"]
    later = replace(turn, attempt=2, status=TurnStatus.RUNNING)
    rest = told(later, parked_story(goes_on=True)[1:], is_continued=True)
    require_order(rest)
    assert kinds(rest)[2:] == [
        "TOOL_CALL_RESULT", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]  # fmt: skip
    first_ids = {e.message_id for e in asked if hasattr(e, "message_id")}
    assert not first_ids & {e.message_id for e in rest if hasattr(e, "message_id")}
    whole = told(replace(later, status=TurnStatus.COMPLETED), parked_story(goes_on=True))
    require_order(whole)
    assert text_of(whole) == "May I? Done."


def test_an_interrupt_says_until_when() -> None:
    at = "2026-01-02T03:04:05Z"
    asked = AwaitingApproval.model_validate(
        {"actions": [OpenCall(tool_call_id="c", name="pay")], "expiresAt": at}
    )
    turn = replace(make_turn(), status=TurnStatus.AWAITING_APPROVAL)
    events = told(turn, [(1, [STARTED, CALL, asked])])
    assert events[-1].outcome.interrupts[0].expires_at == at


@given(st.lists(SAID, min_size=1, max_size=3))
def test_whatever_is_told_it_is_in_order(attempts: list[list[Any]]) -> None:
    story: Story = [
        (number, [TurnStarted(attempt=number, model_id="m"), *said])
        for number, said in enumerate(attempts, 1)
    ]
    story[-1][1].append(COMPLETED)
    events = told(make_turn(), story)
    assert kinds(events)[-1] == "RUN_FINISHED"
    seen = [e for e in events if not kinds([e])[0].startswith("TOOL_CALL")]
    require_order(seen)  # calls of another attempt may come again under the same id
    assert text_of(events) == "".join(
        event.text for event in attempts[-1] if isinstance(event, MessageDelta)
    )


@pytest.mark.parametrize(("text", "again"), [("abcd", "cd"), ("ab", ""), ("xy", "xy")])
def test_a_log_lost_under_a_reader_is_caught_up_with(text: str, again: str) -> None:
    encoder = AgUiEncoder(make_turn(), "t", "r")
    said: list[Any] = [
        STARTED,
        MessageDelta("a"),
        MessageDelta("b"),
        TurnSnapshot(text=text),
        COMPLETED,
    ]
    data = encoder.open(START)
    data += encoder.encode(EventBatch(1, 1, [encode_event(event) for event in said]))
    events = read(data)
    require_order(events)
    assert text_of(events) == text
    deltas = [e.delta for e in events if e.type is EventType.TEXT_MESSAGE_CONTENT]
    assert "".join(deltas) == "ab" + again
