"""The UI message stream by somebody else's types: those of pydantic-ai's own adapter.

Every chunk we write is one that they know, with no field that they do not; every request that they
know is one that we take.
"""

from __future__ import annotations

import inspect
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.ui.vercel_ai import request_types as requests
from pydantic_ai.ui.vercel_ai import response_types as responses

from api.chat.submit_body import SubmitTurn
from api.streams.vercel_ui import VercelUIEncoder
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
from shared.turn.state import TERMINAL, TurnStatus
from tests.unit.streams.test_vercel_ui import make_turn

CHUNK_OF = {
    chunk.model_fields["type"].default: chunk
    for _, chunk in inspect.getmembers(responses, inspect.isclass)
    if issubclass(chunk, responses.BaseChunk) and "type" in chunk.model_fields
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ENDS = [
    TurnEnded(
        status=status,
        usage=Usage(output_tokens=2, total_cost="0.001"),
        duration_s=1.25,
        error=None if status is TurnStatus.COMPLETED else TurnError(code="c", message="m"),
    )
    for status in sorted(TERMINAL)
]


def require_known(data: bytes) -> list[str]:
    """Types of the chunks in `data`, each of which pydantic-ai knows as it is."""
    kinds = []
    for block in data.split(b"\n\n")[:-1]:
        assert block.startswith(b"data: ")
        body = block.removeprefix(b"data: ")
        if body.decode() == responses.DoneChunk().encode(6):
            kinds.append("[DONE]")
            continue
        frame = orjson.loads(body)
        kind = frame["type"]
        chunk = CHUNK_OF.get(kind, responses.DataChunk).model_validate(frame)
        assert chunk.model_dump(by_alias=True, exclude_unset=True) == frame
        kinds.append(kind)
    return kinds


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """A turn from its start to an end: text, reasoning, calls and results, a lost attempt."""
    events: list[Event] = [TurnQueued(position=1), TurnStarted(attempt=1, model_id="m")]
    for number in range(draw(st.integers(0, 6))):
        name = f"call-{number}"
        match draw(st.sampled_from(["text", "reasoning", "result", "error", "denied", "lost"])):
            case "text":
                events.append(MessageDelta(text=draw(st.text())))
            case "reasoning":
                events.append(ReasoningDelta(text=draw(st.text())))
            case "lost":
                events.append(TurnStarted(attempt=2 + number, model_id="m"))
                events.append(TurnSnapshot(text=draw(st.text())))
            case outcome:
                args = draw(st.dictionaries(st.text(), JSON, max_size=3))
                events.append(ToolCall(tool_call_id=name, name="tool", args=args))
                results = {
                    "result": ToolResult(tool_call_id=name, result=draw(JSON)),
                    "error": ToolResult(tool_call_id=name, error="e"),
                    "denied": ToolResult(tool_call_id=name, error="e", denied=True),
                }
                events.append(results[outcome])
    if draw(st.booleans()):
        events.append(ToolCall(tool_call_id="ask", name="pay", args={}))
        events.append(AwaitingApproval(actions=[OpenCall(tool_call_id="ask", name="pay")]))
    events.append(draw(st.sampled_from(ENDS)))
    return events


@given(lives())
def test_every_chunk_is_one_that_pydantic_ai_knows(events: list[Event]) -> None:
    encoder = VercelUIEncoder(make_turn())
    data = encoder.open(START) + encoder.queued(3)
    data += encoder.encode(EventBatch(1, 1, [encode_event(event) for event in events]))
    kinds = require_known(data)
    assert kinds[0] == "start"
    assert kinds[-1] == "[DONE]"


def test_the_rare_frames_are_known_too() -> None:
    encoder = VercelUIEncoder(make_turn())
    assert require_known(encoder.reconnect()) == ["data-turn-reconnect"]


PARTS: list[Any] = [
    requests.ReasoningUIPart(text="hm"),
    requests.SourceUrlUIPart(source_id="s", url="https://example.org"),
    requests.SourceDocumentUIPart(source_id="s", media_type="text/plain", title="t"),
    requests.DataUIPart(type="data-x", data={"a": 1}),
    requests.StepStartUIPart(),
    requests.ToolOutputAvailablePart(type="tool-a", tool_call_id="c", input={}, output=1),
    requests.DynamicToolOutputErrorPart(tool_name="a", tool_call_id="c", input={}, error_text="e"),
    requests.FileUIPart(media_type="text/plain", url="data:text/plain;base64,aGk=", filename="f"),
]


def as_sent(request: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(request.model_dump_json(by_alias=True))
    return body


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_message_with_any_part_that_pydantic_ai_knows_is_taken(part: Any) -> None:
    said = requests.UIMessage(id="u", role="user", parts=[requests.TextUIPart(text="Hello"), part])
    body = as_sent(requests.SubmitMessage(id="chat", messages=[said]))
    message = SubmitTurn.model_validate(body).user_message()
    assert (message.text, message.client_id) == ("Hello", "u")
    assert len(message.files) == (1 if isinstance(part, requests.FileUIPart) else 0)


def test_a_regenerate_is_taken() -> None:
    said = requests.UIMessage(id="u", role="user", parts=[requests.TextUIPart(text="Hello")])
    body = as_sent(
        requests.RegenerateMessage(
            trigger="regenerate-message", id="chat", messages=[said], message_id="a"
        )
    )
    taken = SubmitTurn.model_validate(body)
    assert (taken.trigger, taken.message_id) == ("regenerate-message", "a")


@pytest.mark.parametrize("approved", [True, False])
def test_an_approval_is_taken(approved: bool) -> None:
    part = requests.ToolApprovalRespondedPart(
        type="tool-pay",
        tool_call_id="c",
        input={"euros": 5},
        approval=requests.ToolApprovalResponded(id="c", approved=approved, reason="r"),
    )
    said = requests.UIMessage(id="a", role="assistant", parts=[part])
    body = as_sent(requests.SubmitMessage(id="chat", messages=[said]))
    (decision,) = SubmitTurn.model_validate(body).approval_responses() or []
    assert (decision.tool_call_id, decision.approved) == ("c", approved)
