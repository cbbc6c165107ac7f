"""The event stream of the OpenAI Responses API: named SSE frames with a `sequence_number` each.

Protocol: https://platform.openai.com/docs/api-reference/responses-streaming.

The number of an event follows from the place of the stored event it tells of: attempt, seq, and
which of the events told of it. So it is the same for every reader at any time, it rises from one
attempt to the next, and a reader that comes again with the last one is told exactly the rest: the
log is told from its beginning, and what is known already is left out.

The protocol cannot take text back. When an attempt is lost, its items are done as `incomplete`, and
`response.in_progress` with an empty `output` says that the next ones begin anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

import orjson

from api.streams.responses_object import (
    SERVER_LABEL,
    Outcome,
    approval_id,
    outcome_of,
    output_item_id,
    response_object,
)
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

ATTEMPT_STEP: Final = 1_000_000_000
"""Between the numbers of two attempts; the log cannot hold so many events."""
EVENT_STEP: Final = 16
"""Between the numbers of two stored events: none but the last of an attempt is told as more."""
_BEGINNING: Final = -1
_NOBODY: Final = 2**63
_QUEUED: Final = Outcome("queued")
_RUNNING: Final = Outcome("in_progress")


@dataclass(slots=True)
class _OpenText:
    """A message or reasoning that is being told. `pieces` are JSON strings without their quotes."""

    kind: str
    item_id: str
    index: int
    head: bytes = b""
    pieces: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> orjson.Fragment:
        """All of it, as JSON."""
        return orjson.Fragment(b'"%b"' % b"".join(self.pieces))


@dataclass(slots=True)
class _OpenCall:
    item: dict[str, Any]
    index: int


class ResponsesEncoder:
    """See `api.streams.encoder.StreamEncoder`. Tells nothing up to the number `after`."""

    __slots__ = (
        "_after", "_asked", "_attempt", "_awaits", "_calls", "_floor", "_index", "_last", "_open",
        "_outcome", "_output", "_parks", "_skip", "_tale_items", "_turn", "_usage", "is_over",
    )  # fmt: skip

    def __init__(self, turn: Turn, *, after: int = _BEGINNING) -> None:
        self._turn = turn
        self._after = after
        self.is_over = False
        self._last = _BEGINNING
        self._floor = 0
        """The lowest number of what is told next."""
        self._attempt = self._parks = 0
        self._awaits = False
        """What was told last is that approvals are awaited."""
        self._skip = 0
        """So many events from here on repeat what was told."""
        self._index = 0
        """`output_index` of the next item; never used again, not even by another attempt."""
        self._tale_items = 0
        """Items since the last void beginning: a part of their ids."""
        self._open: _OpenText | None = None
        self._calls: dict[str, _OpenCall] = {}
        self._output: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []
        self._outcome = _QUEUED
        self._usage: Usage | None = None

    # -- the protocol of encoders

    def open(self, cursor: Cursor) -> bytes:
        """The response as it was accepted, whatever it is by now: each reader hears the same."""
        return self._lifecycle("response.created") + self._lifecycle("response.queued")

    def queued(self, position: int) -> bytes:
        return b""  # no event of the protocol has a position

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def reconnect(self) -> bytes:
        return b": come again with starting_after\n\n"

    def encode(self, batch: EventBatch) -> bytes:
        frames: list[bytes] = []
        base = max(batch.attempt - 1, 0) * ATTEMPT_STEP
        for seq, payload in enumerate(batch.payloads, batch.first_seq):
            self._floor = base + seq * EVENT_STEP
            if self._skip:
                self._skip -= 1
            elif payload.startswith(MESSAGE_DELTA_HEAD):
                frames.append(self._continue("message", payload[len(MESSAGE_DELTA_HEAD) + 1 : -2]))
            else:
                frames.append(self.tell(decode_event(payload)))
            if self.is_over:
                break
        return b"".join(frames)

    # -- the response as it stands

    @classmethod
    def of_stored(cls, turn: Turn, told: Iterable[Event]) -> ResponsesEncoder:
        """One that has told all this and more of to nobody: for the response it makes of it."""
        silent = cls(turn, after=_NOBODY)
        silent._attempt = _tale_of(turn)
        silent._usage = turn.usage
        silent._outcome = _QUEUED if turn.status is TurnStatus.PENDING else _RUNNING
        for event in told:
            silent.tell(event)
        return silent

    def response(self) -> Any:
        """The response object."""
        return response_object(
            self._turn, self._outcome, [*self._output, *self._asked], self._usage
        )

    # -- events

    def tell(self, event: Event) -> bytes:
        """Frames of one event."""
        match event:
            case TurnQueued():
                return b""
            case TurnStarted():
                return self._start(event)
            case MessageDelta():
                return self._continue("message", orjson.dumps(event.text)[1:-1])
            case ReasoningDelta():
                return self._continue("reasoning", orjson.dumps(event.text)[1:-1])
            case ToolCall():
                return self._call(event)
            case ToolResult():
                return self._finish_call(event)
            case AwaitingApproval():
                return self._ask(event)
            case TurnSnapshot():
                return self._catch_up(event.text)
            case TurnEnded():
                return self._end(event)
            case _:
                assert_never(event)

    def _frame(self, kind: str, **fields: Any) -> bytes:
        number = self._next_number()
        if number <= self._after:
            return b""
        data = orjson.dumps({"type": kind, **fields, "sequence_number": number})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def _next_number(self) -> int:
        self._last = max(self._last + 1, self._floor)
        return self._last

    def _lifecycle(self, kind: str) -> bytes:
        if max(self._last + 1, self._floor) <= self._after:
            self._next_number()
            return b""  # the object is large, and not wanted
        return self._frame(kind, response=self.response())

    # -- attempts

    def _start(self, event: TurnStarted) -> bytes:
        goes_on, self._awaits = self._awaits, False
        self._outcome = _RUNNING
        frames = b""
        if event.retold is not None and not self._parks:
            self._parks = 1
        if goes_on and event.retold is not None:
            self._skip = event.retold
            self._asked = []
        else:
            frames = self._void()
        self._attempt = event.attempt
        return frames + self._lifecycle("response.in_progress")

    def _void(self) -> bytes:
        """Ends all items as incomplete, and begins a new output."""
        frames = self._close("incomplete") + self._drop_calls()
        self._output, self._asked = [], []
        self._tale_items = 0
        return frames

    def _new_id(self, prefix: str) -> str:
        """An id that is the same whenever the same is told, and another one in another attempt."""
        number, self._tale_items = self._tale_items, self._tale_items + 1
        tale = max(self._attempt - self._parks, 1)
        return output_item_id(prefix, self._turn.planned_output_message_id, tale, number)

    def _add(self, item: dict[str, Any]) -> tuple[int, bytes]:
        index, self._index = self._index, self._index + 1
        return index, self._frame("response.output_item.added", output_index=index, item=item)

    # -- text

    def _continue(self, kind: str, text: bytes) -> bytes:
        frames = b""
        if self._open is None or self._open.kind != kind:
            frames = self._close("completed") + self._begin(kind)
        told = self._open
        assert told is not None  # noqa: S101 - `_begin` sets it
        told.pieces.append(text)
        number = self._next_number()
        if number <= self._after:
            return frames
        return b'%b%b"%b","sequence_number":%d}\n\n' % (frames, told.head, text, number)

    def _begin(self, kind: str) -> bytes:
        is_message = kind == "message"
        told = _OpenText(kind, self._new_id("msg" if is_message else "rs"), self._index)
        self._open = told
        _, frames = self._add(_text_item(told, "in_progress", []))
        place = _place(told)
        if is_message:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            frames += self._frame("response.content_part.added", **place, part=part)
            place["logprobs"] = []
            name = "response.output_text.delta"
        else:
            part = {"type": "summary_text", "text": ""}
            frames += self._frame("response.reasoning_summary_part.added", **place, part=part)
            name = "response.reasoning_summary_text.delta"
        head = orjson.dumps({"type": name, **place})[:-1]
        told.head = b'event: %b\ndata: %b,"delta":' % (name.encode(), head)
        return frames

    def _close(self, status: str) -> bytes:
        told, self._open = self._open, None
        if told is None:
            return b""
        place = _place(told)
        if told.kind == "message":
            part = {"type": "output_text", "text": told.text, "annotations": [], "logprobs": []}
            frames = self._frame(
                "response.output_text.done", **place, text=told.text, logprobs=[]
            ) + self._frame("response.content_part.done", **place, part=part)
        else:
            part = {"type": "summary_text", "text": told.text}
            frames = self._frame(
                "response.reasoning_summary_text.done", **place, text=told.text
            ) + self._frame("response.reasoning_summary_part.done", **place, part=part)
        item = _text_item(told, status, [part])
        self._output.append(item)
        return frames + self._frame("response.output_item.done", output_index=told.index, item=item)

    def _catch_up(self, text: str) -> bytes:
        """The log was lost: this is all of the text, of which some was told."""
        said = "".join(
            _plain(part["text"]) for item in self._output if item["type"] == "message"
            for part in item["content"]
        )  # fmt: skip
        told = self._open
        if told is not None and told.kind == "message":
            said += _plain(told.text)
        if text == said:
            return b""
        if text.startswith(said):
            return self._continue("message", orjson.dumps(text[len(said) :])[1:-1])
        self._attempt += 1
        frames = self._void() + self._lifecycle("response.in_progress")
        return frames + self._continue("message", orjson.dumps(text)[1:-1])

    # -- tools

    def _call(self, event: ToolCall) -> bytes:
        if event.tool_call_id in self._calls:
            return b""  # told again
        frames = self._close("completed")
        item_id, arguments = self._new_id("mcp"), orjson.dumps(event.args).decode()
        item = {
            "id": item_id,
            "type": "mcp_call",
            "status": "in_progress",
            "server_label": SERVER_LABEL,
            "name": event.name,
            "arguments": "",
            "output": None,
            "error": None,
            "approval_request_id": None,
        }
        index, added = self._add(item)
        place = {"item_id": item_id, "output_index": index}
        frames += added + self._frame("response.mcp_call.in_progress", **place)
        frames += self._frame("response.mcp_call_arguments.delta", **place, delta=arguments)
        frames += self._frame("response.mcp_call_arguments.done", **place, arguments=arguments)
        item["arguments"] = arguments
        self._calls[event.tool_call_id] = _OpenCall(item, index)
        self._output.append(item)
        return frames

    def _finish_call(self, event: ToolResult) -> bytes:
        call = self._calls.get(event.tool_call_id)
        if call is None:
            return b""
        frames = self._close("completed")
        is_done = event.error is None
        if is_done:
            result = event.result
            text = result if isinstance(result, str) else orjson.dumps(result).decode()
            call.item |= {"status": "completed", "output": text}
        else:
            content = [{"type": "text", "text": event.error}]
            error = {"type": "mcp_tool_execution_error", "content": content}
            call.item |= {"status": "failed", "error": error}
        place = {"item_id": call.item["id"], "output_index": call.index}
        frames += self._frame(f"response.mcp_call.{'completed' if is_done else 'failed'}", **place)
        return frames + self._item_done(call)

    def _drop_calls(self) -> bytes:
        """Ends those calls that have no result."""
        frames = b""
        for call in self._calls.values():
            if call.item["status"] == "in_progress":
                call.item["status"] = "incomplete"
                frames += self._item_done(call)
        self._calls.clear()
        return frames

    def _item_done(self, call: _OpenCall) -> bytes:
        return self._frame("response.output_item.done", output_index=call.index, item=call.item)

    def _ask(self, event: AwaitingApproval) -> bytes:
        """Asks for approvals, which ends the stream: the client comes again with the decisions."""
        frames = self._close("completed")
        for wanted in event.actions:
            call = self._calls.get(wanted.tool_call_id)
            request = {
                "id": approval_id(wanted.tool_call_id),
                "type": "mcp_approval_request",
                "server_label": SERVER_LABEL,
                "name": wanted.name,
                "arguments": "{}" if call is None else call.item["arguments"],
            }
            if call is not None:
                call.item["approval_request_id"] = request["id"]
            self._asked.append(request)
            index, added = self._add(request)
            frames += added
            frames += self._frame("response.output_item.done", output_index=index, item=request)
        self._awaits = True
        self._parks += 1
        self._outcome = outcome_of(TurnStatus.AWAITING_APPROVAL, None, truncated=False)
        if self._is_decided():
            self._next_number()  # said to those who came before
            return frames
        self.is_over = True
        return frames + self._lifecycle("response.completed")

    def _is_decided(self) -> bool:
        """Whether somebody had decided before this reader came."""
        turn = self._turn
        goes_on = turn.is_terminal or turn.status is TurnStatus.PENDING
        return self._attempt < turn.attempt or (self._attempt == turn.attempt and goes_on)

    # -- the end

    def _end(self, event: TurnEnded) -> bytes:
        outcome = outcome_of(event.status, event.error, truncated=event.truncated is True)
        self._usage = event.usage
        is_whole = outcome.status == "completed"
        frames = self._close("completed" if is_whole else "incomplete") + self._drop_calls()
        self._asked = []
        self._outcome = outcome
        # Of `cancelled` the protocol knows the status, and no event.
        kind = "incomplete" if outcome.status == "cancelled" else outcome.status
        if max(self._last + 1, self._floor) <= self._after:
            return frames
        response = self.response()
        if is_whole and response["completed_at"] is None:
            response["completed_at"] = int(time.time())
        return frames + self._frame(f"response.{kind}", response=response)


def _tale_of(turn: Turn) -> int:
    """Under which attempt what is stored of a turn was told first: a part of its items' ids."""
    never_ran_again = turn.status is TurnStatus.CANCELLED and turn.last_seq == 1
    waits = turn.status in (TurnStatus.PENDING, TurnStatus.AWAITING_APPROVAL)
    attempt = turn.attempt - never_ran_again
    return max(attempt - turn.parked_count + (waits and turn.parked_count > 0), 1)


def _text_item(told: _OpenText, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    if told.kind == "message":
        return {
            "id": told.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": parts,
        }
    return {"id": told.item_id, "type": "reasoning", "status": status, "summary": parts}


def _place(told: _OpenText) -> dict[str, Any]:
    index = "content_index" if told.kind == "message" else "summary_index"
    return {"item_id": told.item_id, "output_index": told.index, index: 0}


def _plain(text: orjson.Fragment) -> str:
    plain: str = orjson.loads(orjson.dumps(text))
    return plain
