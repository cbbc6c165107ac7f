"""The Zylon surface's stream: named events of one message, in blocks, ended by `message_stop`.

Order: `message_start`, then of each block `content_block_start`, `content_block_delta` …,
`content_block_stop`, then `message_delta` with the stop reason, and `message_stop`. A turn that
failed says `error` and `message_stop`. Between them `ping` may come at any time.

An attempt that begins anew, because a worker was lost, is a new `message_start` of the same id:
what came before it is void. A stream that ends without `message_stop` was cut; asked for again, it
tells everything from the start.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
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

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
CUT: Final = b"retry: 1000\n: ask again, the stream begins anew\n\n"
_ERROR_TYPES: Final = {
    "rate_limited": "rate_limit_error",
    "context_too_long": "invalid_request_error",
    "invalid_settings": "invalid_request_error",
    "timeout": "timeout_error",
    "queue_ttl": "overloaded_error",
}
_DELTA_TYPES: Final = {"text": "text_delta", "thinking": "thinking_delta"}


def stop_reason(status: TurnStatus, *, is_truncated: bool) -> str | None:
    """Why a turn's message ended; None while it goes on."""
    match status:
        case TurnStatus.COMPLETED:
            return "max_tokens" if is_truncated else "end_turn"
        case TurnStatus.CANCELLED:
            return "cancelled"
        case TurnStatus.FAILED | TurnStatus.EXPIRED:
            return "error"
        case TurnStatus.PENDING | TurnStatus.RUNNING | TurnStatus.AWAITING_APPROVAL:
            return None
        case _:
            assert_never(status)


def error_of(code: str, message: str) -> dict[str, str]:
    """What a failed turn says, as the surface's errors are told."""
    return {"type": _ERROR_TYPES.get(code, "api_error"), "message": message}


def usage_of(usage: Usage | None) -> dict[str, int]:
    """The numbers of a turn's usage; zeros before it is known."""
    known = usage or Usage()
    return {"input_tokens": known.input_tokens, "output_tokens": known.output_tokens}


class ZylonEncoder:
    """See `api.streams.encoder.StreamEncoder`. Keeps track of the block that is open."""

    __slots__ = (
        "_attempt",
        "_awaits_more",
        "_clock",
        "_delta_head",
        "_index",
        "_open_block",
        "_said_bytes",
        "_said_sum",
        "_skip",
        "_turn",
        "is_over",
    )

    def __init__(self, turn: Turn, clock: Callable[[], float] = time.time) -> None:
        self._turn = turn
        self._clock = clock
        self.is_over = False
        self._attempt = 0
        self._awaits_more = False
        """Approvals are awaited, as was said last: the next attempt goes on from there."""
        self._skip = 0
        """So many events from here on repeat what was said."""
        self._index = -1
        self._open_block: str | None = None
        self._delta_head = b""
        # What the attempt has said so far, as JSON without quotes: enough to know it again.
        self._said_bytes = 0
        self._said_sum = 0

    def open(self, _: Cursor) -> bytes:
        return self._start_message()

    def queued(self, _: int) -> bytes:
        return PING

    def keep_alive(self) -> bytes:
        return PING

    def reconnect(self) -> bytes:
        return CUT

    def encode(self, batch: EventBatch) -> bytes:
        return b"".join(map(self._pass_on, batch.payloads))

    def _pass_on(self, payload: bytes) -> bytes:
        if self.is_over:
            return b""
        if self._skip:
            self._skip -= 1
            return b""
        if payload.startswith(MESSAGE_DELTA_HEAD):  # most are: the text is JSON already
            return self._say("text", payload[len(MESSAGE_DELTA_HEAD) : -1])
        return self._encode(decode_event(payload))

    def _encode(self, event: Event) -> bytes:
        match event:
            case TurnQueued():
                return PING
            case TurnStarted():
                return self._begin_attempt(event)
            case MessageDelta():
                return self._say("text", orjson.dumps(event.text))
            case ReasoningDelta():
                return self._say("thinking", orjson.dumps(event.text))
            case ToolCall():
                return self._call_tool(event)
            case ToolResult():
                return self._answer_tool(event)
            case AwaitingApproval():
                self._awaits_more = True
                return self._close_block()
            case TurnSnapshot():
                return self._catch_up(event)
            case TurnEnded():
                return self._end(event)
            case _:
                assert_never(event)

    def _start_message(self) -> bytes:
        turn = self._turn
        message = {
            "id": f"msg_{turn.planned_output_message_id.hex}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": turn.model_id,
            "usage": {},
        }
        return _frame("message_start", message=message)

    def _begin_attempt(self, event: TurnStarted) -> bytes:
        goes_on, self._awaits_more = self._awaits_more, False
        is_first, self._attempt = self._attempt == 0, event.attempt
        if goes_on and event.retold is not None:
            self._skip = event.retold
            return b""
        return b"" if is_first else self._start_over()

    def _start_over(self) -> bytes:
        frames = self._close_block()
        self._index = -1
        self._said_bytes = self._said_sum = 0
        return frames + self._start_message()

    def _say(self, kind: str, text: bytes) -> bytes:
        """`text` is a JSON string."""
        frames = b"" if self._open_block == kind else self._open_text(kind)
        if kind == "text":
            self._said_bytes += len(text) - 2
            self._said_sum = zlib.crc32(text[1:-1], self._said_sum)
        return b"%b%b%b}}\n\n" % (frames, self._delta_head, text)

    def _open_text(self, kind: str) -> bytes:
        block = {"type": kind, kind: "", "start_timestamp": self._clock()}
        frames = self._close_block() + self._start_block(kind, block)
        head = {"type": "content_block_delta", "index": self._index, "block_id": self._block_id()}
        told = orjson.dumps({**head, "delta": {"type": _DELTA_TYPES[kind]}})
        self._delta_head = b'event: content_block_delta\ndata: %b,"%b":' % (
            told[:-2],
            kind.encode(),
        )
        return frames

    def _start_block(self, kind: str, block: dict[str, Any]) -> bytes:
        self._open_block = kind
        self._index += 1
        return _frame(
            "content_block_start", index=self._index, block_id=self._block_id(), content_block=block
        )

    def _close_block(self) -> bytes:
        if self._open_block is None:
            return b""
        self._open_block = None
        return _frame(
            "content_block_stop",
            index=self._index,
            block_id=self._block_id(),
            stop_timestamp=self._clock(),
        )

    def _block_id(self) -> str:
        return f"block_{self._turn.id.hex}_{self._index}"

    def _call_tool(self, event: ToolCall) -> bytes:
        block = {
            "type": "tool_use",
            "id": event.tool_call_id,
            "name": event.name,
            "input": {},
            "start_timestamp": self._clock(),
        }
        frames = self._close_block() + self._start_block("tool_use", block)
        delta = {"type": "input_json_delta", "partial_json": orjson.dumps(event.args).decode()}
        frames += _frame(
            "content_block_delta", index=self._index, block_id=self._block_id(), delta=delta
        )
        return frames + self._close_block()

    def _answer_tool(self, event: ToolResult) -> bytes:
        block = {**tool_result(event), "start_timestamp": self._clock()}
        frames = self._close_block() + self._start_block("tool_result", block)
        return frames + self._close_block()

    def _catch_up(self, event: TurnSnapshot) -> bytes:
        text = orjson.dumps(event.text)[1:-1]
        said, missing = text[: self._said_bytes], text[self._said_bytes :]
        if len(said) == self._said_bytes and zlib.crc32(said) == self._said_sum:
            return self._say("text", b'"%b"' % missing) if missing else b""
        return self._start_over() + (self._say("text", b'"%b"' % text) if text else b"")

    def _end(self, event: TurnEnded) -> bytes:
        self.is_over = True
        frames = self._close_block()
        if event.status in {TurnStatus.COMPLETED, TurnStatus.CANCELLED}:
            frames += _frame(
                "message_delta",
                delta={
                    "stop_reason": stop_reason(event.status, is_truncated=bool(event.truncated))
                },
                usage=usage_of(event.usage),
            )
        else:
            code, message = "internal", "The turn did not complete"
            if event.error is not None:
                code, message = event.error.code, event.error.message
            frames += _frame("error", error=error_of(code, message))
        return frames + _frame("message_stop")


def tool_result(event: ToolResult) -> dict[str, Any]:
    """A tool's outcome as a content block."""
    content = event.result if event.error is None else event.error
    if not isinstance(content, str):
        content = orjson.dumps(content).decode()
    return {
        "type": "tool_result",
        "tool_use_id": event.tool_call_id,
        "content": content,
        "is_error": event.error is not None,
    }


def _frame(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
