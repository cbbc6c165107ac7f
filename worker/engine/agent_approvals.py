"""Approvals on their way through pydantic-ai, which calls them deferred tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from shared.turn.approval import Approval
from worker.engine.agent_history import load_history
from worker.engine.base import AskedCall, EngineRequest, Resumption

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.tools import DeferredToolResults


def run_input(request: EngineRequest) -> dict[str, Any]:
    """What a run starts from: the user's prompt, or the messages of a turn that goes on."""
    history = load_history(request.history)
    resumption = request.resumption
    if resumption is None:
        return {
            "user_prompt": request.prompt,
            "message_history": history or None,
            "run_id": str(request.turn_id),
        }
    return {
        "message_history": [*history, *_own_messages(request.prompt, resumption)],
        "deferred_tool_results": _results(resumption.approvals),
        # pydantic-ai knows a run's messages by its id: the rounds of a turn are runs of their own.
        "run_id": f"{request.turn_id}:{resumption.round}",
    }


def calls_made(resumption: Resumption | None) -> tuple[int, int]:
    """How many requests to the model and calls of tools a turn has made before it was parked."""
    if resumption is None:
        return 0, 0
    requests = sum(message.get("kind") == "response" for message in resumption.messages)
    parts = [part for message in resumption.messages for part in message.get("parts", ())]
    returned = [part for part in parts if part.get("part_kind") == "tool-return"]
    return requests, sum(part.get("outcome") != "denied" for part in returned)


def asked_calls(output: Any) -> list[AskedCall]:
    """The calls with which a run has ended that somebody must approve."""
    from pydantic_ai.tools import DeferredToolRequests

    if not isinstance(output, DeferredToolRequests):
        return []
    return [
        AskedCall(part.tool_call_id, part.tool_name, part.args_as_dict())
        for part in output.approvals
    ]


def _own_messages(prompt: str, resumption: Resumption) -> list[ModelMessage]:
    # Not `load_history`: it drops calls without a result, and these get theirs now.
    from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest, UserPromptPart

    own = ModelMessagesTypeAdapter.validate_json(orjson.dumps(resumption.messages))
    return [ModelRequest(parts=[UserPromptPart(prompt)]), *own]


def _results(approvals: list[Approval]) -> DeferredToolResults:
    """A call that has run before gets its result, and is not made again."""
    from pydantic_ai import ToolFailed
    from pydantic_ai.tools import DeferredToolResults, ToolDenied

    results = DeferredToolResults()
    for approval in approvals:
        call, decision, outcome = approval.tool_call_id, approval.decision, approval.outcome
        if decision is None or not decision.approved:
            reason = None if decision is None else decision.reason
            results.approvals[call] = ToolDenied(reason) if reason else ToolDenied()
        elif outcome is None:
            results.approvals[call] = True
        elif outcome.get("error") is not None:
            results.calls[call] = ToolFailed(outcome["error"])
        else:
            results.calls[call] = outcome.get("result")
    return results
