"""What an automation does: steps that depend on each other, and what makes them valid.

    {"steps": [
        {"id": "sum", "kind": "calculator", "input": {"expression": "1 + 1"}},
        {"id": "leave", "kind": "approval_gate", "dependsOn": ["sum"]},
        {"id": "time", "kind": "current_time", "dependsOn": ["leave"]}
    ]}

Pure: which kinds a deployment can run is the service's to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from shared.agents.tool_names import DETERMINISTIC
from shared.errors import InvalidRequest

APPROVAL_GATE: Final = "approval_gate"
"""The kind of a step that waits for a person."""
MAX_STEPS: Final = 200
MAX_CONFIG_BYTES: Final = 262_144
CONFIG_LOC: Final = ("body", "config")
FLAGGED: Final = "nonDeterministicSteps"
"""In `metadata`: ids of the steps that may give another result each time. Written by us."""

StepId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Part(BaseModel):
    """What is unknown is refused: a misspelt dependency is none."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class StepSource(_Part):
    """What a step was made from. Its thread's attachments are those that the step can read."""

    thread_id: UUID
    turn_id: UUID | None = None
    message_id: UUID | None = None
    tool_call_id: str | None = Field(default=None, max_length=1000)


class AutomationStepInput(_Part):
    id: StepId
    kind: str = Field(max_length=64, description="A tool's name, or approval_gate")
    name: str | None = Field(default=None, max_length=255)
    input: dict[str, JsonValue] = Field(
        default_factory=dict, description="The arguments of the call, as they are"
    )
    depends_on: list[StepId] = Field(
        default_factory=list, max_length=MAX_STEPS, description="Ids of steps that go before"
    )
    is_deterministic: bool | None = Field(
        default=None, description="Ours to say: what is sent does not count"
    )
    source: StepSource | None = None


class AutomationConfigInput(_Part):
    steps: list[AutomationStepInput] = Field(min_length=1, max_length=MAX_STEPS)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


def is_deterministic(kind: str) -> bool:
    """Whether a step of this kind gives the same each time; a person's decision is no result."""
    return kind == APPROVAL_GATE or kind in DETERMINISTIC


def normalize(config: AutomationConfigInput, kinds: frozenset[str]) -> dict[str, Any]:
    """The config as it is stored, with what we know of each step.

    Raises:
        InvalidRequest: at the step that cannot be run, below `body.config`.
    """
    steps = config.steps
    check_kinds([step.kind for step in steps], kinds)
    order_steps([(step.id, step.depends_on) for step in steps])
    stored = as_stored(
        [step.model_dump(mode="json", by_alias=True) for step in steps], config.metadata
    )
    if len(orjson.dumps(stored)) > MAX_CONFIG_BYTES:
        msg = f"The config should have at most {MAX_CONFIG_BYTES} bytes as JSON"
        raise InvalidRequest(CONFIG_LOC, msg, "too_long")
    return stored


def as_stored(steps: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> dict[str, Any]:
    """A config with its steps flagged."""
    flagged = [{**step, "isDeterministic": is_deterministic(step["kind"])} for step in steps]
    unsure = [step["id"] for step in flagged if not step["isDeterministic"]]
    return {"steps": flagged, "metadata": {**metadata, FLAGGED: unsure}}


def check_kinds(wanted: Sequence[str], kinds: frozenset[str]) -> None:
    """Raises InvalidRequest at the first step of a kind that nobody here can run."""
    for index, kind in enumerate(wanted):
        if kind not in kinds:
            known = ", ".join(sorted(kinds))
            msg = f"This deployment runs no steps of this kind. Kinds: {known}"
            raise InvalidRequest((*CONFIG_LOC, "steps", index, "kind"), msg, "unknown_kind")


def order_steps(steps: Sequence[tuple[str, Sequence[str]]]) -> list[int]:
    """Indexes of `(id, ids it depends on)` in the order of execution: as written, where it may be.

    Raises:
        InvalidRequest: an id stands twice, a dependency is unknown or the step itself, or there is
            a circle.
    """
    place = _places(steps)
    missing = [0] * len(steps)
    followers: list[list[int]] = [[] for _ in steps]
    for index, (_, depends_on) in enumerate(steps):
        for position, name in enumerate(depends_on):
            loc: tuple[str | int, ...] = (*CONFIG_LOC, "steps", index, "dependsOn", position)
            if name not in place:
                raise InvalidRequest(loc, "There is no step with this id", "unknown_step")
            if name in depends_on[:position]:
                raise InvalidRequest(loc, "The step is named twice", "duplicate_step")
            followers[place[name]].append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for follower in followers[index]:
            missing[follower] -= 1
            if not missing[follower]:
                heappush(ready, follower)
    if len(order) < len(steps):
        stuck = min(set(range(len(steps))) - set(order))
        loc = (*CONFIG_LOC, "steps", stuck, "dependsOn")
        raise InvalidRequest(loc, "The steps depend on each other in a circle", "circular_steps")
    return order


def _places(steps: Sequence[tuple[str, Sequence[str]]]) -> dict[str, int]:
    place: dict[str, int] = {}
    for index, (name, _) in enumerate(steps):
        if name in place:
            loc = (*CONFIG_LOC, "steps", index, "id")
            raise InvalidRequest(loc, "Another step has this id", "duplicate_step")
        place[name] = index
    return place


def in_order(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a stored config in the order of execution."""
    steps = config["steps"]
    return [steps[index] for index in order_steps([(s["id"], s["dependsOn"]) for s in steps])]
