"""What models, tools and clients say cannot end a frame, nor begin one, in any protocol."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from api.streams.ag_ui import AgUiEncoder
from api.streams.encoder import StreamEncoder
from api.streams.native import NativeEncoder
from api.streams.responses import ResponsesEncoder
from api.streams.vercel_ui import VercelUIEncoder
from api.streams.zylon import ZylonEncoder
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
    TurnSnapshot,
    TurnStarted,
    encode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

EVIL = (
    'x\n\nevent: response.completed\ndata: {"type":"message_stop"}\r\n\r\n\rdata: [DONE]\r'
    '\u2028\u2029\x85\x0b\x0c":,}]'
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIELDS = {b"event", b"data", b"id", b"retry", b""}
ENCODERS: dict[str, Callable[[Turn], StreamEncoder]] = {
    "ag-ui": lambda turn: AgUiEncoder(turn, EVIL, EVIL),
    "native": lambda _: NativeEncoder(),
    "responses": ResponsesEncoder,
    "vercel": VercelUIEncoder,
    "zylon": ZylonEncoder,
}


def make_turn() -> Turn:
    return Turn(
        id=new_id(), tenant_id=new_id(), user_id=new_id(), thread_id=new_id(),
        status=TurnStatus.PENDING, attempt=0, accept_seq=1, input_message_id=new_id(),
        planned_output_message_id=new_id(), output_message_id=None, model_id=EVIL,
        settings={"responses": {"instructions": EVIL, "metadata": {EVIL: EVIL}}},
        concurrency_key="k", max_running=1, idempotency_key=None, usage=None,
        error=None, worker_id=None, last_seq=0, cancel_requested_at=None, started_at=None,
        ended_at=None, created_at=NOW, updated_at=NOW,
    )  # fmt: skip


TALE: list[list[Event]] = [
    [
        TurnStarted(attempt=1, model_id=EVIL),
        ReasoningDelta(EVIL),
        MessageDelta(EVIL),
        ToolCall(tool_call_id=EVIL, name=EVIL, args={EVIL: EVIL}),
        ToolResult(tool_call_id=EVIL, error=EVIL),
        ToolCall(tool_call_id="2" + EVIL, name=EVIL, args={}),
        ToolResult(tool_call_id="2" + EVIL, result={EVIL: EVIL}),
        MessageDelta(EVIL),
        TurnEnded(status=TurnStatus.FAILED, error=TurnError(code=EVIL, message=EVIL)),
    ],
    [
        TurnStarted(attempt=1, model_id=EVIL),
        TurnSnapshot(text=EVIL, reasoning=EVIL),
        ToolCall(tool_call_id=EVIL, name=EVIL, args={EVIL: EVIL}),
        AwaitingApproval(actions=[OpenCall(tool_call_id=EVIL, name=EVIL)]),
    ],
]


@pytest.mark.parametrize("tale", TALE, ids=["fails", "waits"])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_frame_is_ended_by_its_encoder_alone(name: str, tale: list[Event]) -> None:
    encoder = ENCODERS[name](make_turn())
    said = [encoder.open(START)]
    for seq, event in enumerate(tale, 1):
        said.append(encoder.encode(EventBatch(1, seq, [encode_event(event)])))
    stream = b"".join(said)
    assert b"\r" not in stream
    assert stream.endswith(b"\n\n")
    for frame in stream.removesuffix(b"\n\n").split(b"\n\n"):
        lines = frame.split(b"\n")
        fields = [line.partition(b":")[0] for line in lines]
        assert set(fields) <= FIELDS
        assert len(fields) == len(set(fields)), "no field twice"
        events: list[Any] = [line for line in lines if line.startswith(b"event")]
        assert all(len(line) < 100 for line in events)
