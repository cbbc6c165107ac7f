"""The AG-UI protocol, version 1.0: data-only SSE frames, one event each.

Protocol: https://docs.ag-ui.com/spec/1.0 (events, interrupts). A turn that is parked for approvals
ends its run with the interrupt outcome; another run, which brings the decisions, goes on with it.
What the protocol has no word for is told as `CUSTOM`: a place in the line, and a new attempt, from
which on the messages before it are void.
"""

from __future__ import annotations

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
    Usage,
    decode_event,
)
from shared.turn.model import Turn
from shared.turn.state import TurnStatus

PROTOCOL_VERSION: Final = "1.0"
_OUTCOMES: Final = {TurnStatus.COMPLETED: "success", TurnStatus.CANCELLED: "cancelled"}
DECISION_SCHEMA: Final = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}
"""What a run that resumes brings for each interrupt."""


class AgUiEncoder:
    """See `api.streams.encoder.StreamEncoder`. `thread_id` and `run_id` are the client's own.

    `is_continued`: the client holds what was told up to the approvals it has decided on.
    """

    __slots__ = (
        "_attempt", "_awaits", "_called", "_count", "_delta_head", "_is_continued", "_open",
        "_run_id", "_said", "_skip", "_thread_id", "_turn", "is_over",
    )  # fmt: skip

    def __init__(
        self, turn: Turn, thread_id: str, run_id: str, *, is_continued: bool = False
    ) -> None:
        self._turn = turn
        self._thread_id = thread_id
        self._run_id = run_id
        self.is_over = False
        self._awaits = is_continued
        """What was told last, here or in the run before, is that approvals are awaited."""
        self._attempt = 0
        self._skip = 0
        """So many events from here on repeat what the client knows."""
        self._open: str | None = None
        self._count = 0
        self._delta_head = b""
        self._said: list[bytes] = []
        """The attempt's text as JSON without quotes; of what is skipped too."""
        self._called: set[str] = set()

    def open(self, cursor: Cursor) -> bytes:
        return self._of_run("RUN_STARTED", protocolVersion=PROTOCOL_VERSION)

    def queued(self, position: int) -> bytes:
        return _frame("CUSTOM", name="turn.queued", value={"position": position})

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def reconnect(self) -> bytes:
        """The same run id again tells the run from its beginning."""
        return _frame("CUSTOM", name="stream.reconnect", value={"runId": self._run_id})

    def encode(self, batch: EventBatch) -> bytes:
        frames: list[bytes] = []
        for payload in batch.payloads:
            is_delta = payload.startswith(MESSAGE_DELTA_HEAD)
            text = payload[len(MESSAGE_DELTA_HEAD) + 1 : -2] if is_delta else b""
            if self._skip:
                self._skip -= 1
                self._said.append(text)
            elif is_delta:
                frames.append(self._say(text))
            else:
                frames.append(self._encode(decode_event(payload)))
            if self.is_over:
                break
        return b"".join(frames)

    def _encode(self, event: Event) -> bytes:
        match event:
            case TurnQueued():
                return self.queued(event.position)
            case TurnStarted():
                return self._start(event)
            case MessageDelta():
                return self._say(orjson.dumps(event.text)[1:-1])
            case ReasoningDelta():
                frames = self._begin("reasoning")
                return frames + b"%b%b}\n\n" % (self._delta_head, orjson.dumps(event.text))
            case ToolCall():
                return self._call(event)
            case ToolResult():
                return self._answer(event)
            case AwaitingApproval():
                return self._ask(event)
            case TurnSnapshot():
                return self._catch_up(event.text)
            case TurnEnded():
                return self._end(event)
            case _:
                assert_never(event)

    def _of_run(self, kind: str, **fields: Any) -> bytes:
        return _frame(kind, threadId=self._thread_id, runId=self._run_id, **fields)

    # -- attempts

    def _start(self, event: TurnStarted) -> bytes:
        goes_on, self._awaits = self._awaits, False
        if goes_on and event.retold is not None:
            self._skip = event.retold
            self._attempt = event.attempt
            self._said.clear()
            return b""
        return self._begin_attempt(event.attempt)

    def _begin_attempt(self, attempt: int) -> bytes:
        frames = self._close()
        if self._attempt and attempt != self._attempt:
            frames += _frame("CUSTOM", name="turn.attempt", value={"attempt": attempt})
        self._attempt = attempt
        self._called.clear()
        self._said.clear()
        return frames

    # -- text

    def _say(self, text: bytes) -> bytes:
        frames = self._begin("text")
        self._said.append(text)
        return b'%b%b"%b"}\n\n' % (frames, self._delta_head, text)

    def _begin(self, kind: str) -> bytes:
        if self._open == kind:
            return b""
        frames = self._close()
        self._open = kind
        self._count += 1
        message_id = self._message_id()
        if kind == "text":
            frames += _frame("TEXT_MESSAGE_START", messageId=message_id, role="assistant")
            name = "TEXT_MESSAGE_CONTENT"
        else:
            frames += _frame("REASONING_START", messageId=message_id)
            frames += _frame("REASONING_MESSAGE_START", messageId=message_id, role="reasoning")
            name = "REASONING_MESSAGE_CONTENT"
        head = orjson.dumps({"type": name, "messageId": message_id})[:-1]
        self._delta_head = b'data: %b,"delta":' % head
        return frames

    def _close(self) -> bytes:
        kind, self._open = self._open, None
        if kind is None:
            return b""
        message_id = self._message_id()
        if kind == "text":
            return _frame("TEXT_MESSAGE_END", messageId=message_id)
        ended = _frame("REASONING_MESSAGE_END", messageId=message_id)
        return ended + _frame("REASONING_END", messageId=message_id)

    def _message_id(self) -> str:
        """Of the message that is told: no other of the turn has it, in no run and no attempt."""
        return f"{self._turn.planned_output_message_id}-{self._attempt}-{self._count}"

    def _catch_up(self, text: str) -> bytes:
        """The log was lost: this is all of the text, of which some was told."""
        said: str = orjson.loads(b'"%b"' % b"".join(self._said))
        if text == said:
            return b""
        if text.startswith(said):
            return self._say(orjson.dumps(text[len(said) :])[1:-1])
        frames = self._begin_attempt(self._attempt + 1)
        return frames + self._say(orjson.dumps(text)[1:-1])

    # -- tools

    def _call(self, event: ToolCall) -> bytes:
        if event.tool_call_id in self._called:
            return b""  # told again
        self._called.add(event.tool_call_id)
        call = {"toolCallId": event.tool_call_id}
        frames = self._close() + _frame("TOOL_CALL_START", **call, toolCallName=event.name)
        frames += _frame("TOOL_CALL_ARGS", **call, delta=orjson.dumps(event.args).decode())
        return frames + _frame("TOOL_CALL_END", **call)

    def _answer(self, event: ToolResult) -> bytes:
        frames = self._close()
        self._count += 1
        result = event.result if event.error is None else {"error": event.error}
        content = result if isinstance(result, str) else orjson.dumps(result).decode()
        return frames + _frame(
            "TOOL_CALL_RESULT",
            messageId=self._message_id(),
            toolCallId=event.tool_call_id,
            content=content,
            role="tool",
        )

    def _ask(self, event: AwaitingApproval) -> bytes:
        """Ends the run with what is to be decided, unless it was decided before the client came."""
        self._awaits = True
        turn = self._turn
        goes_on = turn.is_terminal or turn.status is TurnStatus.PENDING
        if self._attempt < turn.attempt or (self._attempt == turn.attempt and goes_on):
            return self._close()
        expires_at = event.expires_at
        more = {} if expires_at is None else {"expiresAt": expires_at}
        interrupts = [
            {
                "id": call.tool_call_id,
                "reason": "tool_call",
                "message": f"May {call.name} be called?",
                "toolCallId": call.tool_call_id,
                "responseSchema": DECISION_SCHEMA,
                **more,
            }
            for call in event.actions
        ]
        self.is_over = True
        outcome = {"type": "interrupt", "interrupts": interrupts}
        return self._close() + self._of_run("RUN_FINISHED", outcome=outcome)

    def _end(self, event: TurnEnded) -> bytes:
        frames = self._close()
        usage = {} if event.usage is None else {"usage": [_usage(event.usage, self._turn.model_id)]}
        if event.status in _OUTCOMES:
            outcome = {"type": _OUTCOMES[event.status]}
            return frames + self._of_run("RUN_FINISHED", outcome=outcome, **usage)
        message = event.error.message if event.error else "The turn was not started in time"
        code = event.error.code if event.error else str(event.status)
        return frames + _frame("RUN_ERROR", message=message, code=code, **usage)


def _usage(usage: Usage, model_id: str) -> dict[str, Any]:
    return {
        "model": model_id,
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        "cachedInputTokens": usage.cached_input_tokens,
    }


def _frame(kind: str, **fields: Any) -> bytes:
    data = orjson.dumps({"type": kind, **fields}, option=orjson.OPT_UTC_Z)
    return b"data: %b\n\n" % data
