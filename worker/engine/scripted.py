"""The `scripted` model: deterministic, no network. For tests, demos and benchmarks.

Imports no model library; the messages it makes have pydantic-ai's JSON shape, which a test holds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any, Final

from shared.errors import InvalidRequest, TurnFailed
from shared.turn.approval import Approval
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult, Usage
from shared.turn.script import Script, ScriptedApproval, ScriptedToolCall, parse_script
from worker.engine.base import (
    AskedCall,
    EngineEvent,
    EngineMessage,
    EngineRequest,
    EngineResult,
    EngineRun,
    as_text,
)
from worker.tools.base import ToolFailed, call_tool

_YIELD_EVERY: Final = 64
"""Deltas between two yields to the loop when there is no interval: about 0.1 ms of work."""
_QUOTED_WORDS: Final = 8
_WORD: Final = re.compile(r"^\s+|\S+\s*")


class ScriptedEngine:
    """Runs `settings.script`. Its limits are for the tools that a script really calls."""

    def __init__(self, tool_timeout_s: float = 20.0, tool_max_calls: int = 50) -> None:
        self._tool_timeout_s = tool_timeout_s
        self._tool_max_calls = tool_max_calls

    def start(self, request: EngineRequest) -> EngineRun:
        """A run of the request's script.

        Raises:
            TurnFailed: `invalid_settings`, the script cannot be read.
        """
        try:
            script = parse_script(request.settings)
        except InvalidRequest as error:
            place = ".".join(str(part) for part in error.loc[1:])
            raise TurnFailed("invalid_settings", f"{place}: {error.msg}") from None
        return _ScriptedRun(request, script, self._tool_timeout_s, self._tool_max_calls)


class _ScriptedRun:
    def __init__(
        self, request: EngineRequest, script: Script, tool_timeout_s: float, tool_max_calls: int
    ) -> None:
        self._request = request
        self._script = script
        self._tool_timeout_s = tool_timeout_s
        self._tool_max_calls = tool_max_calls
        self._real_calls = 0
        self._words: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, ScriptedToolCall]] = []
        self._results_given = 0
        self._round = 0 if request.resumption is None else request.resumption.round
        self._decided: list[ToolResult] = []
        self._asked: list[AskedCall] = []
        self._ended = False
        self._is_cut = False
        self._interval_s = script.interval_ms / 1000
        self._due = 0.0
        """When the next delta is to be said, on the loop's clock."""
        self._started_at = datetime.now(UTC).isoformat().replace("+00:00", "Z")

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        script = self._script
        try:
            await self._start()
            for text in self._reasoning_words():
                if self._interval_s or len(self._reasoning) % _YIELD_EVERY == 0:
                    await self._pause()
                self._reasoning.append(text)
                yield ReasoningDelta(text)
            for number, call in enumerate(() if self._round else script.tool_calls):
                yield self._begin_call(number, call)
                yield await self._finish_call(call)
            for told in self._approval_events():
                yield told
            breaks = {script.fail_after, script.hang_after}
            for text in self._allowed_words():
                count = len(self._words)
                if count in breaks:
                    await self._break(count)
                if self._interval_s or count % _YIELD_EVERY == 0:
                    await self._pause()
                self._words.append(text)
                yield MessageDelta(text)
            await self._break(len(self._words))
            self._ended = True
        except asyncio.CancelledError:
            if script.ignore_cancel_ms:
                await asyncio.sleep(script.ignore_cancel_ms / 1000)
            raise

    async def _start(self) -> None:
        if self._script.start_delay_ms:
            await asyncio.sleep(self._script.start_delay_ms / 1000)
        self._due = asyncio.get_running_loop().time()

    async def _pause(self) -> None:
        """To the next delta's time; without an interval, a moment for others."""
        if not self._interval_s:
            await asyncio.sleep(0)
            return
        await asyncio.sleep(max(0.0, self._due - asyncio.get_running_loop().time()))
        self._due += self._interval_s

    async def _break(self, count: int) -> None:
        """Fails or hangs where the script says so; never in what leads up to an approval."""
        if self._asked:
            return
        if count == self._script.fail_after:
            self._fail()
        if count == self._script.hang_after:
            await self._hang()
            self._due = asyncio.get_running_loop().time()

    def _reasoning_words(self) -> Iterator[str]:
        return iter(()) if self._round else _reasoning_words(self._script)

    def _begin_call(self, number: int, call: ScriptedToolCall) -> ToolCall:
        call_id = f"call_{self._request.turn_id.hex}_{number}"
        self._calls.append((call_id, call))
        return ToolCall(tool_call_id=call_id, name=call.name, args=call.args)

    async def _finish_call(self, call: ScriptedToolCall) -> ToolResult:
        outcome = await self._call(call) if call.is_real else call
        call_id, _ = self._calls[-1]
        self._calls[-1] = (call_id, outcome)
        self._results_given += 1
        return ToolResult(tool_call_id=call_id, result=outcome.result, error=outcome.error)

    async def _call(self, call: ScriptedToolCall) -> ScriptedToolCall:
        """The call with what the agent's tool made of it."""
        request = self._request
        self._real_calls += 1
        tools = {one.tool.name: one for one in request.tools}
        try:
            if self._real_calls > self._tool_max_calls:
                raise ToolFailed("The turn has made all the tool calls it may")  # noqa: TRY301
            if request.tool_context is None or call.name not in tools:
                raise ToolFailed(f"The agent has no tool {call.name}")  # noqa: TRY301
            if tools[call.name].requires_approval:
                message = "The tool needs an approval: that is what `approval` of a script is for"
                raise ToolFailed(message)  # noqa: TRY301
            result = await call_tool(
                tools[call.name].tool,
                request.tool_context,
                call.args,
                timeout_s=self._tool_timeout_s,
            )
        except ToolFailed as failure:
            return call.model_copy(update={"error": str(failure)})
        return call.model_copy(update={"result": result})

    def _approval_events(self) -> Iterator[MessageDelta | ToolCall | ToolResult]:
        if self._round:
            yield from self._decided_events()
        approval = self._script.approval
        if approval is not None and self._round < approval.times:
            yield from self._ask(approval)

    def _ask(self, approval: ScriptedApproval) -> Iterator[MessageDelta | ToolCall]:
        for text in _WORD.findall(approval.text or ""):
            self._words.append(text)
            yield MessageDelta(text)
        for number, call in enumerate(approval.calls):
            call_id = f"approval_{self._request.turn_id.hex}_{self._round}_{number}"
            self._asked.append(AskedCall(call_id, call.name, call.args))
            yield ToolCall(tool_call_id=call_id, name=call.name, args=call.args)

    def _decided_events(self) -> Iterator[ToolResult]:
        approval, resumption = self._script.approval, self._request.resumption
        if approval is None or resumption is None:
            raise TurnFailed("invalid_settings", "The script asks for no approval")
        for asked, call in zip(resumption.approvals, approval.calls, strict=True):
            result = _decided_result(asked, call)
            self._decided.append(result)
            yield result

    def _allowed_words(self) -> Iterator[str]:
        """The message's words, each a token, up to `maxTokens`."""
        most = self._request.settings.get("maxTokens")
        if type(most) is not int or most < 1:
            yield from self._message_words()
            return
        for count, text in enumerate(self._message_words()):
            if count == most:
                self._is_cut = True
                return
            yield text

    def _message_words(self) -> Iterator[str]:
        script = self._script
        if self._asked:
            return iter(())
        if script.text is None:
            if script.deltas is None:
                return iter(_WORD.findall(_answer_about(self._request.prompt)))
            return (f"w{number} " for number in range(script.deltas))
        words = _WORD.findall(script.text)
        if script.deltas is None:
            return iter(words)
        spaced = [word if word[-1].isspace() else f"{word} " for word in words]
        return islice(cycle(spaced), script.deltas)

    def _fail(self) -> None:
        raise TurnFailed(self._script.fail_with, "The scripted model failed as its script says")

    async def _hang(self) -> None:
        if self._script.hang_ms is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._script.hang_ms / 1000)

    def result(self) -> EngineResult:
        usage = Usage(
            input_tokens=_words_in(self._request),
            output_tokens=len(self._words) + len(self._reasoning),
            total_cost="0",
        )
        return EngineResult(messages=self._messages(usage), usage=usage, asked=self._asked)

    def _messages(self, usage: Usage) -> list[EngineMessage]:
        text = "".join(self._words)
        parts: list[dict[str, Any]] = []
        if self._reasoning:
            parts.append({"part_kind": "thinking", "content": "".join(self._reasoning)})
        messages: list[EngineMessage] = []
        if self._calls:
            parts.extend(_call_part(call_id, call) for call_id, call in self._calls)
            messages.append(self._response("", parts))
            parts = []
        if self._results_given:
            messages.append(self._tool_returns())
        if self._decided:
            messages.append(self._decided_returns())
        if text:
            parts.append({"part_kind": "text", "content": text})
        if self._asked and self._script.approval is not None:
            asked = zip(self._asked, self._script.approval.calls, strict=False)
            parts.extend(_call_part(known.tool_call_id, call) for known, call in asked)
        if parts:
            messages.append(self._response(text, parts))
        responses = [message.raw for message in messages if message.role == "assistant"]
        if responses:
            self._finish(responses[-1], usage)
        return messages

    def _finish(self, raw: dict[str, Any], usage: Usage) -> None:
        """Says of the last response what it cost, and how it ended."""
        raw["usage"] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost": "0",
        }
        if not self._ended:
            raw["state"] = "interrupted"
        elif self._is_cut:
            raw["finish_reason"] = "length"

    def _response(self, content: str, parts: list[dict[str, Any]]) -> EngineMessage:
        raw = self._envelope("response", parts) | {"model_name": "scripted"}
        return EngineMessage(role="assistant", content=content, raw=raw)

    def _tool_returns(self) -> EngineMessage:
        given = self._calls[: self._results_given]
        parts = [
            _return_part(call_id, call) | {"timestamp": self._started_at} for call_id, call in given
        ]
        content = "\n".join(_outcome_text(call) for _, call in given)
        return EngineMessage(role="tool", content=content, raw=self._envelope("request", parts))

    def _decided_returns(self) -> EngineMessage:
        parts = [
            {
                "part_kind": "tool-return",
                "tool_name": call.name,
                "content": result.result if result.error is None else result.error,
                "tool_call_id": result.tool_call_id,
                "outcome": _outcome_of(result),
                "timestamp": self._started_at,
            }
            for result, call in zip(self._decided, self._decided_calls(), strict=False)
        ]
        content = "\n".join(as_text(part["content"]) for part in parts)
        return EngineMessage(role="tool", content=content, raw=self._envelope("request", parts))

    def _decided_calls(self) -> list[ScriptedToolCall]:
        return [] if self._script.approval is None else self._script.approval.calls

    def _envelope(self, kind: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "kind": kind,
            "parts": parts,
            "timestamp": self._started_at,
            "run_id": str(self._request.turn_id),
            "conversation_id": str(self._request.thread_id),
            "state": "complete",
        }


def _reasoning_words(script: Script) -> Iterator[str]:
    if isinstance(script.reasoning, int):
        return (f"r{number} " for number in range(script.reasoning))
    return iter(_WORD.findall(script.reasoning or ""))


def _answer_about(prompt: str) -> str:
    words = prompt.split(maxsplit=_QUOTED_WORDS)
    quoted = " ".join(words[:_QUOTED_WORDS])[:200] + ("…" if len(words) > _QUOTED_WORDS else "")
    about = f"You wrote: “{quoted}”." if quoted else "You wrote nothing."
    return (
        f"{about} I am the scripted model, so I always answer the same, without a key or a network."
    )


def _call_part(call_id: str, call: ScriptedToolCall) -> dict[str, Any]:
    return {
        "part_kind": "tool-call",
        "tool_name": call.name,
        "args": call.args,
        "tool_call_id": call_id,
    }


def _return_part(call_id: str, call: ScriptedToolCall) -> dict[str, Any]:
    return {
        "part_kind": "tool-return",
        "tool_name": call.name,
        "content": call.result if call.error is None else call.error,
        "tool_call_id": call_id,
        "outcome": "success" if call.error is None else "failed",
    }


def _decided_result(asked: Approval, call: ScriptedToolCall) -> ToolResult:
    """What a decided call gives: what it gave before, or as its script says."""
    call_id, decision = asked.tool_call_id, asked.decision
    if decision is None or not decision.approved:
        reason = None if decision is None else decision.reason
        return ToolResult(tool_call_id=call_id, error=reason or "Denied", denied=True)
    if asked.outcome is not None:
        return ToolResult(tool_call_id=call_id, **asked.outcome)
    return ToolResult(tool_call_id=call_id, result=call.result, error=call.error)


def _outcome_of(result: ToolResult) -> str:
    if result.denied:
        return "denied"
    return "success" if result.error is None else "failed"


def _outcome_text(call: ScriptedToolCall) -> str:
    return call.error if call.error is not None else as_text(call.result)


def _words_in(request: EngineRequest) -> int:
    """Words of the prompt and of all text in the history: the scripted model's input tokens."""
    count = len(request.prompt.split())
    for message in request.history:
        for part in message.get("parts", ()):
            content = part.get("content")
            if isinstance(content, str):
                count += len(content.split())
    return count
