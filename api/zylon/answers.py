"""Turns as this surface tells them: interactions, and messages of chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

from api.streams.zylon import error_of, stop_reason, tool_result, usage_of
from api.zylon.ids import show
from api.zylon.schemas import instant
from shared.service.interactions import Interaction
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult
from shared.turn.messages import is_truncated
from shared.turn.model import Turn
from shared.turn.preceding import details_of
from shared.turn.retell import ToldEvent, retell
from shared.turn.state import TurnStatus

_STATES: Final = {TurnStatus.COMPLETED: "Completed", TurnStatus.CANCELLED: "Completed"}


def interaction_to_dict(interaction: Interaction) -> dict[str, Any]:
    """As `ZylonInteractionAnswer` describes it."""
    turn, asked = interaction.turn, interaction.asked
    kept = details_of(None if asked is None else asked["raw_data"])
    text = "" if asked is None else asked["content"]
    told = {
        "id": show("inter", turn.id),
        "project_id": show("proj", interaction.project_id),
        "thread_id": show("thread", turn.thread_id),
        "state": _state_of(turn),
        "artifact_ids": kept.get("artifact_ids", []),
        "all_artifacts": kept.get("all_artifacts", False),
        "agent": kept.get("agent", "Default"),
        "user_input": {
            "role": "user",
            "content": kept.get("content") or [{"type": "text", "text": text}],
        },
        "created_at": instant(turn.created_at),
    }
    if turn.is_terminal:
        told["assistant_output"] = _output_of(turn, interaction.said)
    return told


def chat_to_dict(turn: Turn, said: Sequence[Any]) -> dict[str, Any]:
    """As `ZylonChatAnswer` describes it."""
    output = _output_of(turn, said)
    message = {"id": output["id"], "type": "message", "role": "assistant"}
    rest = {name: output[name] for name in ("content", "model", "stop_reason", "usage")}
    return message | rest


def _output_of(turn: Turn, said: Sequence[Any]) -> dict[str, Any]:
    message_id = turn.output_message_id or turn.planned_output_message_id
    truncated = is_truncated(row["raw_data"] for row in said)
    output = {
        "id": show("msg", message_id),
        "created": int((turn.ended_at or turn.updated_at).timestamp()),
        "model": turn.model_id,
        "stop_reason": stop_reason(turn.status, is_truncated=truncated),
        "content": [_block(event) for event in events_of(said)],
        "usage": usage_of(turn.usage),
    }
    if turn.error is not None:
        output["errors"] = [error_of(turn.error["code"], turn.error["message"])]
    return output


def _state_of(turn: Turn) -> str:
    return _STATES.get(turn.status, "Error") if turn.is_terminal else "Processing"


def _block(event: ToldEvent) -> dict[str, Any]:
    match event:
        case MessageDelta():
            return {"type": "text", "text": event.text}
        case ReasoningDelta():
            return {"type": "thinking", "thinking": event.text}
        case ToolCall():
            return {
                "type": "tool_use",
                "id": event.tool_call_id,
                "name": event.name,
                "input": event.args,
            }
        case ToolResult():
            return tool_result(event)
        case _:
            assert_never(event)


def events_of(said: Sequence[Any]) -> list[ToldEvent]:
    """What was said in a turn that is over, as events."""
    told: list[ToldEvent] = []
    for row in said:
        if row["raw_data"] is None:
            told += [MessageDelta(row["content"])] if row["content"] else []
        else:
            told += retell([row["raw_data"]])
    return told
