"""What a thread's agent did, as an automation: each tool call that succeeded is a step.

The order of the calls is kept as dependencies: each step depends on the one before. A call that
somebody had to approve stands behind an approval gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson

from shared.agents.tool_names import APPROVAL
from shared.automations.config import APPROVAL_GATE, MAX_CONFIG_BYTES, MAX_STEPS, as_stored
from shared.errors import NotCrystallizable

DEFAULT_NAME: Final = "Crystallized chat"
_NOTHING: Final = "Thread has no completed actions to crystallize"


@dataclass(frozen=True, slots=True)
class Said:
    """A message of a completed turn that calls tools, or holds what they gave."""

    turn_id: UUID
    input_message_id: UUID | None
    calls: Sequence[dict[str, Any]]
    """Its tool-call parts, as pydantic-ai writes them."""
    succeeded: Sequence[str]
    """Ids of calls whose result it holds."""
    approved: Sequence[str]
    """Ids of calls of the turn that somebody has approved."""


@dataclass(frozen=True, slots=True)
class Action:
    """A tool call that succeeded."""

    turn_id: UUID
    message_id: UUID | None
    call_id: str
    tool: str
    arguments: dict[str, Any]
    was_approved: bool


def find_actions(said: Sequence[Said]) -> list[Action]:
    """The calls that succeeded, in the order in which they were made. `said` is in order."""
    succeeded = {(one.turn_id, call_id) for one in said for call_id in one.succeeded}
    found = []
    for one in said:
        for call in one.calls:
            call_id = call.get("tool_call_id")
            arguments = _arguments(call.get("args"))
            if (one.turn_id, call_id) in succeeded and arguments is not None:
                found.append(
                    Action(
                        turn_id=one.turn_id,
                        message_id=one.input_message_id,
                        call_id=str(call_id),
                        tool=str(call.get("tool_name")),
                        arguments=arguments,
                        was_approved=call_id in one.approved,
                    )
                )
    return found


def crystallize(thread_id: UUID, actions: Sequence[Action]) -> dict[str, Any]:
    """The config of an automation that does the same again.

    Raises:
        NotCrystallizable: there is nothing to do, or too much.
    """
    if not actions:
        raise NotCrystallizable(_NOTHING)
    steps: list[dict[str, Any]] = []
    for number, action in enumerate(actions, 1):
        for step in _steps_of(thread_id, number, action):
            step["dependsOn"] = [steps[-1]["id"]] if steps else []
            steps.append(step)
    config = as_stored(steps, {"sourceThreadId": str(thread_id)})
    if len(steps) > MAX_STEPS:
        raise NotCrystallizable(f"The thread's actions make more than {MAX_STEPS} steps")
    if len(orjson.dumps(config)) > MAX_CONFIG_BYTES:
        raise NotCrystallizable(f"The thread's actions have more than {MAX_CONFIG_BYTES} bytes")
    return config


def _steps_of(thread_id: UUID, number: int, action: Action) -> Iterator[dict[str, Any]]:
    source = {
        "threadId": str(thread_id),
        "turnId": str(action.turn_id),
        "messageId": None if action.message_id is None else str(action.message_id),
        "toolCallId": action.call_id,
    }
    if action.tool == APPROVAL:  # it does nothing but ask
        yield _step(f"gate_{number}", APPROVAL_GATE, action.arguments, source)
        return
    if action.was_approved:
        asked = {"toolName": action.tool, "args": action.arguments}
        yield _step(f"gate_{number}", APPROVAL_GATE, asked, source)
    yield _step(f"step_{number}", action.tool, action.arguments, source)


def _step(
    step_id: str, kind: str, arguments: dict[str, Any], source: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": step_id,
        "kind": kind,
        "name": None,
        "input": arguments,
        "dependsOn": [],
        "source": source,
    }


def _arguments(args: Any) -> dict[str, Any] | None:
    """The arguments of a tool-call part: an object, its JSON, or nothing; None: no arguments."""
    if args is None or args == "":
        return {}
    if isinstance(args, str):
        try:
            args = orjson.loads(args)
        except orjson.JSONDecodeError:
            return None
    return args if isinstance(args, dict) else None
