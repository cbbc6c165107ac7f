"""What a tool is, and the one way to call it: arguments checked, bounded in time and size.

Whatever goes wrong in a call is a `ToolFailed` whose message the model reads; no call ends a turn.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from shared.errors import DependencyUnavailable
from shared.turn.attached import AttachedName, AttachedPart
from shared.turn.text import storable_json

if TYPE_CHECKING:
    from shared.outbound.client import GuardedClient
    from worker.tools.shares import TenantShares

log = structlog.get_logger(__name__)

MAX_RESULT_BYTES: Final = 65_536
"""Of a result as JSON. A tool that can cut its result does so itself, below this."""
_MAX_PROBLEMS: Final = 5

T = TypeVar("T")


class ToolFailed(Exception):
    """A call did not give a result; the message says why, to the model."""


class Arguments(BaseModel):
    """Base of all tools' arguments: what is unknown is a mistake that the model should learn of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoArguments(Arguments):
    pass


class AttachedTexts(Protocol):
    """What tools read attachments with: `worker/attachments/reader.py`."""

    async def find(self, name: str) -> AttachedName | None: ...
    async def list_names(self) -> Sequence[AttachedName]: ...
    async def read(
        self, attachment_id: UUID, offset: int, max_chars: int
    ) -> AttachedPart | None: ...
    async def scan(self, attachment_id: UUID, scan: Callable[[str], T]) -> T | None: ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom and when a tool is called. Tools have no other way to anything outside."""

    tenant_id: UUID
    user_id: UUID
    thread_id: UUID
    turn_id: UUID
    timezone: str
    """IANA name."""
    now: Callable[[], datetime]
    """The time, aware."""
    attached: AttachedTexts
    """Of the thread's attachments, those of this turn's message included."""
    outbound: GuardedClient | None = None
    """None: this deployment lets no tool ask other servers."""
    outbound_shares: TenantShares | None = None
    """How many of its connections a tenant may hold; None: any number."""


A = TypeVar("A", bound=Arguments)


class Tool(ABC, Generic[A]):
    """One tool. Stateless, so that one object serves all turns; an MCP tool is a run's own."""

    name: str
    description: str
    parameters: type[Arguments]
    is_deterministic: bool
    """The same arguments always give the same result."""
    requires_approval: bool = False
    """A person must allow each call, whatever an agent's spec says."""

    @abstractmethod
    async def run(self, context: ToolContext, arguments: A) -> JsonValue:
        """The result of one call.

        Raises:
            ToolFailed: there is none.
        """

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self.parameters.model_json_schema()


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as one agent has it."""

    tool: Tool[Any]
    requires_approval: bool


async def call_tool(
    tool: Tool[Any], context: ToolContext, arguments: Mapping[str, Any], *, timeout_s: float
) -> JsonValue:
    """The result of a call, at most `MAX_RESULT_BYTES` as JSON.

    Raises:
        ToolFailed: for whatever reason; the message is written for the model.
    """
    parsed = _parse(tool, arguments)
    try:
        async with asyncio.timeout(timeout_s):
            result: JsonValue = storable_json(await tool.run(context, parsed))
        size = len(orjson.dumps(result))
    except ToolFailed:
        raise
    except TimeoutError:
        raise ToolFailed(f"The tool did not answer within {timeout_s:g} s") from None
    except DependencyUnavailable as error:
        log.warning("tool.dependency_unavailable", tool=tool.name, error=str(error))
        raise ToolFailed("The tool is unavailable at the moment") from error
    except Exception as error:  # the boundary: a defect of a tool is no end of a turn
        log.exception("tool.defect", tool=tool.name, turn_id=str(context.turn_id))
        raise ToolFailed("The tool failed") from error
    if size > MAX_RESULT_BYTES:
        raise ToolFailed(f"The result has more than {MAX_RESULT_BYTES} bytes; ask for less")
    return result


def _parse(tool: Tool[Any], arguments: Mapping[str, Any]) -> Arguments:
    try:
        return tool.parameters.model_validate(dict(arguments))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}"
            for problem in problems[:_MAX_PROBLEMS]
        )
        raise ToolFailed(f"Wrong arguments: {told}") from None
