"""The AI SDK's UI message stream, version 1: data-only SSE frames that end with `[DONE]`.

Protocol: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol (UI Message Stream, AI SDK 6).
"""

from __future__ import annotations

from typing import Any, Final, assert_never

import orjson

from shared.turn.events import (
    MESSAGE_DELTA_HEAD,
    REASONING_DELTA_HEAD,
    AwaitingApproval,
    Cursor,
    Event,
    EventBatch,
    MessageDelta,
    ReasoningDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnQueued,
    TurnSnapshot,
    TurnStarted,
    decode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}
_DONE: Final = b"data: [DONE]\n\n"


class VercelUIEncoder:
    """See `api.streams.encoder.StreamEncoder`. Keeps track of the parts that are open."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._attempt = 0
        self._said: list[bytes] = []
        """JSON strings of the attempt's text: read only when a snapshot comes."""
        self._open_part: str | None = None
        self._delta_head = b""
        self._part_count = 0
        self._step_is_open = False
        self._tools_answered = False

    def open(self, cursor: Cursor) -> bytes:
        turn = self._turn
        metadata = {
            "turnId": str(turn.id),
            "threadId": str(turn.thread_id),
            "inputMessageId": str(turn.input_message_id),
        }
        return _frame(
            type="start",
            messageId=str(turn.planned_output_message_id),
            messageMetadata=metadata,
        )

    def queued(self, position: int) -> bytes:
        return _frame(type="data-turn-queued", data={"position": position}, transient=True)

    def encode(self, batch: EventBatch) -> bytes:
        return b"".join([self._encode(payload) for payload in batch.payloads])

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def reconnect(self) -> bytes:
        return _frame(
            type="data-turn-reconnect", data={"turnId": str(self._turn.id)}, transient=True
        )

    def _encode(self, payload: bytes) -> bytes:
        # A delta's text is passed on as the JSON string it is: most events are deltas.
        if payload.startswith(MESSAGE_DELTA_HEAD):
            return self._continue_part("text", payload[len(MESSAGE_DELTA_HEAD) : -1])
        if payload.startswith(REASONING_DELTA_HEAD):
            return self._continue_part("reasoning", payload[len(REASONING_DELTA_HEAD) : -1])
        return self._encode_rare(decode_event(payload))

    def _encode_rare(self, event: Event) -> bytes:
        match event:
            case TurnQueued():
                return self.queued(event.position)
            case TurnStarted():
                return self._begin_attempt(event.attempt)
            case MessageDelta():
                return self._continue_part("text", orjson.dumps(event.text))
            case ReasoningDelta():
                return self._continue_part("reasoning", orjson.dumps(event.text))
            case ToolCall():
                return self._call_tool(event)
            case ToolResult():
                return self._answer_tool(event)
            case AwaitingApproval():
                return self._close_part()
            case TurnSnapshot():
                return self._catch_up(event)
            case TurnEnded():
                return self._end(event)
            case _:
                assert_never(event)

    def _begin_attempt(self, attempt: int) -> bytes:
        frames = b""
        if self._attempt and attempt != self._attempt:
            # The protocol cannot take text back: say which attempt the parts from here belong to.
            frames = self._close_step() + _frame(
                type="data-turn-attempt", data={"attempt": attempt}
            )
            self._said.clear()
        self._attempt = attempt
        return frames + self._open_step()

    def _open_step(self) -> bytes:
        if self._step_is_open:
            return b""
        self._step_is_open = True
        return _frame(type="start-step")

    def _close_step(self) -> bytes:
        frames = self._close_part()
        if self._step_is_open:
            frames += _frame(type="finish-step")
        self._step_is_open = False
        self._tools_answered = False
        return frames

    def _continue_part(self, kind: str, text: bytes) -> bytes:
        """`text` is a JSON string."""
        if kind == "text":
            self._said.append(text)
        if self._open_part != kind or self._tools_answered:
            frames = self._open_part_of(kind)
            self._delta_head = b'data: {"type":"%b-delta","id":"%b","delta":' % (
                kind.encode(),
                self._part_id(kind).encode(),
            )
            return b"%b%b%b}\n\n" % (frames, self._delta_head, text)
        return b"%b%b}\n\n" % (self._delta_head, text)

    def _open_part_of(self, kind: str) -> bytes:
        # After tools have answered, the model is asked again: that is a new step.
        frames = self._close_step() if self._tools_answered else self._close_part()
        frames += self._open_step()
        self._open_part = kind
        self._part_count += 1
        return frames + _frame(type=f"{kind}-start", id=self._part_id(kind))

    def _close_part(self) -> bytes:
        kind, self._open_part = self._open_part, None
        return b"" if kind is None else _frame(type=f"{kind}-end", id=self._part_id(kind))

    def _part_id(self, kind: str) -> str:
        return f"{kind}-{self._part_count}"

    def _call_tool(self, event: ToolCall) -> bytes:
        frames = self._close_step() if self._tools_answered else self._close_part()
        frames += self._open_step()
        tool = {"toolCallId": event.tool_call_id, "toolName": event.name}
        frames += _frame(type="tool-input-start", **tool)
        return frames + _frame(type="tool-input-available", **tool, input=event.args)

    def _answer_tool(self, event: ToolResult) -> bytes:
        self._tools_answered = True
        if event.error is not None:
            return _frame(
                type="tool-output-error", toolCallId=event.tool_call_id, errorText=event.error
            )
        return _frame(
            type="tool-output-available", toolCallId=event.tool_call_id, output=event.result
        )

    def _catch_up(self, event: TurnSnapshot) -> bytes:
        said = "".join(orjson.loads(text) for text in self._said)
        if event.text.startswith(said):
            missing = event.text[len(said) :]
            return self._continue_part("text", orjson.dumps(missing)) if missing else b""
        frames = self._begin_attempt(self._attempt + 1)
        return frames + self._continue_part("text", orjson.dumps(event.text))

    def _end(self, event: TurnEnded) -> bytes:
        if event.status is TurnStatus.CANCELLED:
            frames = self._close_part() + _frame(type="abort", reason="cancelled")
            return frames + self._close_step() + _DONE
        reason, frames = "stop", b""
        if event.status is not TurnStatus.COMPLETED:
            text = event.error.message if event.error else "The turn did not complete"
            reason, frames = "error", self._close_part() + _frame(type="error", errorText=text)
        metadata: dict[str, Any] = {"turnId": str(self._turn.id)}
        if event.usage is not None:
            metadata["usage"] = event.usage.model_dump(by_alias=True)
        if event.duration_s is not None:
            metadata["durationSeconds"] = event.duration_s
        frames += self._close_step()
        return frames + _frame(type="finish", finishReason=reason, messageMetadata=metadata) + _DONE


def _frame(**fields: Any) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(fields)
