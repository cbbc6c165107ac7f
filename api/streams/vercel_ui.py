"""The AI SDK's UI message stream, version 1: data-only SSE frames that end with `[DONE]`.

Protocol: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol (UI Message Stream, AI SDK 6).
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Final, assert_never

import orjson

from shared.turn.events import (
    MESSAGE_DELTA_HEAD,
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
_DELTA_RUN: Final = re.compile(rb"(?:%b[^\n]*(?:\n|$))+" % re.escape(MESSAGE_DELTA_HEAD))
"""Consecutive encoded deltas, one a line: no line break can stand inside an encoded event."""
_BETWEEN_DELTAS: Final = b"}\n" + MESSAGE_DELTA_HEAD


class VercelUIEncoder:
    """See `api.streams.encoder.StreamEncoder`. Keeps track of the parts that are open."""

    __slots__ = (
        "_attempt",
        "_awaits_more",
        "_called",
        "_delta_head",
        "_open_part",
        "_part_count",
        "_said_bytes",
        "_said_sum",
        "_skip",
        "_skips_unsaid",
        "_step_is_open",
        "_tools_answered",
        "_turn",
        "is_over",
    )

    def __init__(self, turn: Turn, *, is_continued: bool = False) -> None:
        """`is_continued`: the client holds the message up to the approvals it has decided on."""
        self._turn = turn
        self.is_over = False
        self._awaits_more = is_continued
        """What was said last, here or to the same client before, is that approvals are awaited."""
        self._skip = 0
        """So many events from here on repeat what the client knows."""
        self._skips_unsaid = False
        """It knows them from an earlier response, not from this one."""
        self._attempt = 0
        # What the attempt has said so far, as JSON without quotes: enough to know it again.
        self._said_bytes = 0
        self._said_sum = 0
        self._open_part: str | None = None
        self._delta_head = b""
        self._part_count = 0
        self._step_is_open = False
        self._tools_answered = False
        self._called: set[str] = set()
        """Tool calls of the attempt; one that is told again is known by its id."""

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
        events = b"\n".join(batch.payloads)
        frames: list[bytes] = []
        place = 0
        while place < len(events) and not self.is_over:
            if self._skip:
                end = events.find(b"\n", place)
                end = len(events) if end < 0 else end
                self._pass_over(events[place:end])
                place = end + 1
                continue
            run = _DELTA_RUN.match(events, place)
            if run is not None:
                frames.append(self._pass_on(run[0].rstrip(b"\n")))
                place = run.end()
            else:
                end = events.find(b"\n", place)
                end = len(events) if end < 0 else end
                frames.append(self._encode(decode_event(events[place:end])))
                place = end + 1
        return b"".join(frames)

    def _pass_over(self, event: bytes) -> None:
        """Leaves out an event that repeats what the client knows."""
        self._skip -= 1
        if self._skips_unsaid and event.startswith(MESSAGE_DELTA_HEAD):
            self._note_said(event[len(MESSAGE_DELTA_HEAD) + 1 : -2])

    def _pass_on(self, run: bytes) -> bytes:
        """Frames of a run of deltas, whose texts are passed on as the JSON strings they are.

        Most events are deltas: neither decoded nor encoded, nor looked at one by one.
        """
        texts = run[len(MESSAGE_DELTA_HEAD) : -1]
        frames = self._open_part_of("text")
        self._note_said(texts.replace(b'"' + _BETWEEN_DELTAS + b'"', b"")[1:-1])
        between = b"}\n\n" + self._delta_head
        return b"%b%b%b}\n\n" % (frames, self._delta_head, texts.replace(_BETWEEN_DELTAS, between))

    def keep_alive(self) -> bytes:
        return b": ping\n\n"

    def reconnect(self) -> bytes:
        return _frame(
            type="data-turn-reconnect", data={"turnId": str(self._turn.id)}, transient=True
        )

    def _encode(self, event: Event) -> bytes:
        match event:
            case TurnQueued():
                return self.queued(event.position)
            case TurnStarted():
                return self._start(event)
            case MessageDelta():
                return self._continue_part("text", event.text)
            case ReasoningDelta():
                return self._continue_part("reasoning", event.text)
            case ToolCall():
                return self._call_tool(event)
            case ToolResult():
                return self._answer_tool(event)
            case AwaitingApproval():
                return self._ask(event)
            case TurnSnapshot():
                return self._catch_up(event)
            case TurnEnded():
                return self._end(event)
            case _:
                assert_never(event)

    def _start(self, event: TurnStarted) -> bytes:
        goes_on, self._awaits_more = self._awaits_more, False
        if not goes_on:
            return self._begin_attempt(event.attempt)
        if event.retold is None:
            # The turn was told anew from its beginning: it has ended and its log is gone.
            self._attempt = self._attempt or event.attempt - 1
            return self._begin_attempt(event.attempt)
        # The results of the calls come first, and belong to the step that has made them.
        self._skips_unsaid = self._attempt == 0
        self._attempt = event.attempt
        self._skip = event.retold
        return b""

    def _ask(self, event: AwaitingApproval) -> bytes:
        """Asks for approvals, which ends the stream: the client comes again with the decisions."""
        self._awaits_more = True
        turn = self._turn
        is_decided = turn.is_terminal or turn.status is TurnStatus.PENDING
        if self._attempt < turn.attempt or (self._attempt == turn.attempt and is_decided):
            return self._close_step()  # before this reader came
        frames = self._close_part() + self._open_step()
        for call in event.actions:
            frames += _frame(
                type="tool-approval-request",
                approvalId=call.tool_call_id,
                toolCallId=call.tool_call_id,
            )
        self.is_over = True
        metadata = {"turnId": str(turn.id)}
        frames += self._close_step()
        return (
            frames
            + _frame(type="finish", finishReason="tool-calls", messageMetadata=metadata)
            + _DONE
        )

    def _begin_attempt(self, attempt: int) -> bytes:
        frames = b""
        if self._attempt and attempt != self._attempt:
            # The protocol cannot take text back: say which attempt the parts from here belong to.
            frames = self._close_step() + _frame(
                type="data-turn-attempt", data={"attempt": attempt}
            )
            self._said_bytes = self._said_sum = 0
        self._attempt = attempt
        self._called.clear()
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

    def _continue_part(self, kind: str, text: str) -> bytes:
        frames = self._open_part_of(kind)
        encoded = orjson.dumps(text)
        if kind == "text":
            self._note_said(encoded[1:-1])
        return b"%b%b%b}\n\n" % (frames, self._delta_head, encoded)

    def _note_said(self, text: bytes) -> None:
        self._said_bytes += len(text)
        self._said_sum = zlib.crc32(text, self._said_sum)

    def _open_part_of(self, kind: str) -> bytes:
        if self._open_part == kind and not self._tools_answered:
            return b""
        # After tools have answered, the model is asked again: that is a new step.
        frames = self._close_step() if self._tools_answered else self._close_part()
        frames += self._open_step()
        self._open_part = kind
        self._part_count += 1
        part_id = self._part_id(kind)
        self._delta_head = f'data: {{"type":"{kind}-delta","id":"{part_id}","delta":'.encode()
        return frames + _frame(type=f"{kind}-start", id=part_id)

    def _close_part(self) -> bytes:
        kind, self._open_part = self._open_part, None
        return b"" if kind is None else _frame(type=f"{kind}-end", id=self._part_id(kind))

    def _part_id(self, kind: str) -> str:
        return f"{kind}-{self._part_count}"

    def _call_tool(self, event: ToolCall) -> bytes:
        if event.tool_call_id in self._called:
            return b""
        self._called.add(event.tool_call_id)
        frames = self._close_step() if self._tools_answered else self._close_part()
        frames += self._open_step()
        tool = {"toolCallId": event.tool_call_id, "toolName": event.name}
        frames += _frame(type="tool-input-start", **tool)
        return frames + _frame(type="tool-input-available", **tool, input=event.args)

    def _answer_tool(self, event: ToolResult) -> bytes:
        self._tools_answered = True
        if event.denied:
            return _frame(type="tool-output-denied", toolCallId=event.tool_call_id)
        if event.error is not None:
            return _frame(
                type="tool-output-error", toolCallId=event.tool_call_id, errorText=event.error
            )
        return _frame(
            type="tool-output-available", toolCallId=event.tool_call_id, output=event.result
        )

    def _catch_up(self, event: TurnSnapshot) -> bytes:
        text = orjson.dumps(event.text)[1:-1]
        said, missing = text[: self._said_bytes], text[self._said_bytes :]
        if len(said) == self._said_bytes and zlib.crc32(said) == self._said_sum:
            if not missing:
                return b""
            return self._continue_part("text", orjson.loads(b'"%b"' % missing))
        frames = self._begin_attempt(self._attempt + 1)
        return frames + self._continue_part("text", event.text)

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
