"""Events and cursors: stored once, so their bytes are a contract."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.turn.events import (
    START,
    AwaitingApproval,
    Cursor,
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
    decode_event,
    encode_event,
    is_ended,
)
from shared.turn.state import TurnStatus

# Everything but lone surrogates, which JSON in UTF-8 cannot carry; control characters included.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_COUNT = st.integers(0, 2**40)
_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_OBJECT = st.dictionaries(_TEXT, _JSON, max_size=3)
_USAGE = st.builds(
    Usage, inputTokens=_COUNT, outputTokens=_COUNT, cachedInputTokens=_COUNT, totalCost=st.none()
)
_EVENT: st.SearchStrategy[Event] = st.one_of(
    st.builds(TurnQueued, position=_COUNT),
    st.builds(TurnStarted, attempt=_COUNT, modelId=_TEXT, retold=st.none() | _COUNT),
    st.builds(MessageDelta, text=_TEXT),
    st.builds(ReasoningDelta, text=_TEXT),
    st.builds(ToolCall, toolCallId=_TEXT, name=_TEXT, args=_OBJECT),
    st.builds(ToolResult, toolCallId=_TEXT, result=_JSON, error=st.none() | _TEXT),
    st.builds(
        AwaitingApproval,
        actions=st.lists(st.builds(OpenCall, toolCallId=_TEXT, name=_TEXT), max_size=2),
        expiresAt=st.none() | st.datetimes(timezones=st.just(UTC)),
    ),
    st.builds(TurnSnapshot, text=_TEXT, reasoning=_TEXT),
    st.builds(
        TurnEnded,
        status=st.sampled_from(TurnStatus),
        error=st.none() | st.builds(TurnError, code=_TEXT, message=_TEXT),
        usage=st.none() | _USAGE,
        outputMessageId=st.none() | _TEXT,
        durationSeconds=st.none() | st.floats(0, 1e6),
    ),
)


@given(_EVENT)
def test_an_event_survives_the_round_trip(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@given(_EVENT)
def test_an_event_is_one_line_and_says_its_type_first(event: Event) -> None:
    payload = encode_event(event)
    assert b"\n" not in payload
    assert b"\r" not in payload
    assert payload.startswith(b'{"type":"' + event.type.encode() + b'"')


@given(_EVENT)
def test_only_the_end_is_recognised_as_the_end(event: Event) -> None:
    assert is_ended(encode_event(event)) == isinstance(event, TurnEnded)


@pytest.mark.parametrize(
    "payload",
    [b"{}", b"[]", b'{"type":"turn.unknown"}', b'{"type":"message.delta","more":1}'],
)
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_event(payload)


@given(_EVENT)
def test_members_of_a_later_release_are_passed_over(event: Event) -> None:
    payload = encode_event(event)
    assert decode_event(payload[:-1] + b',"later":{"a":[1]}}') == event


_PLACE = st.integers(0, 999_999_999)


@given(_PLACE, _PLACE)
def test_a_cursor_reads_what_it_writes(attempt: int, seq: int) -> None:
    assert Cursor.parse(str(Cursor(attempt, seq))) == (attempt, seq)


@pytest.mark.parametrize(
    "text",
    ["", "-", "1", "1-", "-1", "1-1-1", " 1-1", "1-1\n", "a-1", "1-b", "+1-1", "1--1", "1.0-1",
     "1234567890-1", "1-1234567890", "0x1-1", "1-1 ", "\u0661-\u0662", "\uff11-1"],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(text: str) -> None:
    assert Cursor.parse(text) is None


@given(st.text(max_size=12))
def test_parsing_a_cursor_never_fails(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or cursor >= START


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.integers(0, 5), _PLACE)
def test_the_rest_of_a_batch_is_what_lies_behind_the_cursor(
    attempt: int, first: int, count: int, at_attempt: int, at_seq: int
) -> None:
    batch = EventBatch(attempt, first, [str(first + i).encode() for i in range(count)])
    cursor = Cursor(at_attempt, at_seq % 45)
    wanted = [
        payload
        for index, payload in enumerate(batch.payloads)
        if Cursor(attempt, first + index) > cursor
    ]
    rest = batch.after(cursor)
    if not wanted:
        assert rest is None
        return
    assert rest is not None
    assert rest.payloads == wanted
    assert rest.first_seq == int(wanted[0])
    assert rest.last == batch.last
