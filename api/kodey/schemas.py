"""Bodies of the surface: camelCase, times in whole seconds of UTC.

Specification: https://developer.kodey.ai/docs/getting-started/kodey-api/chat-api and …/agent-api.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Field

from api.limits import MAX_TEXT_CHARS
from api.wire import Model, SmallObject
from shared.agents.spec import MAX_INSTRUCTIONS_CHARS

MAX_NAME_CHARS: Final = 255


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("String should not be blank")
    return text


Second = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def second(at: datetime) -> str:
    """RFC 3339 in UTC, without fractions."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- chats


class KodeyCreateChat(Model):
    agent_id: str = Field(
        min_length=1, max_length=MAX_NAME_CHARS, description="Id or slug of an agent"
    )
    user_id: str | None = Field(
        default=None, max_length=MAX_NAME_CHARS, description="For whom: any text of the team's"
    )
    metadata: SmallObject | None = None


class KodeyChatQuery(Model):
    user_id: str | None = Field(default=None, max_length=MAX_NAME_CHARS)
    agent_type: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARS,
        description="The agent's type, or where it has none its mode, which is primary",
    )


class KodeyMessage(Model):
    id: str
    content: str
    role: Literal["user", "assistant"]
    created_at: Second


class KodeyChat(Model):
    id: str
    agent_id: str
    team_id: str
    user_id: str | None
    metadata: dict[str, Any]
    created_at: Second


class KodeyChatWithMessages(KodeyChat):
    messages: list[KodeyMessage]


class KodeyListedChat(Model):
    id: str
    agent_id: str
    user_id: str | None
    created_at: Second


class KodeyChatList(Model):
    chats: list[KodeyListedChat]


class KodeyMessageList(Model):
    messages: list[KodeyMessage]


class KodeyCreateMessage(Model):
    content: Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_said)]
    role: Literal["user"] = "user"


class KodeyAnswer(Model):
    """The agent's message."""

    id: str
    chat_id: str
    content: str
    role: Literal["assistant"]
    created_at: Second


# -- agents

_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Temperature = Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)]
_Tools = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)]


class _AgentFields(Model):
    description: str | None = Field(default=None, max_length=1000)
    system_prompt: str | None = Field(default=None, max_length=MAX_INSTRUCTIONS_CHARS)
    model: str | None = Field(default=None, max_length=255)
    temperature: _Temperature | None = None
    tools: _Tools | None = Field(default=None, description="Names of tools, and mcp:<server>")
    type: str | None = Field(
        default=None, max_length=64, description="A word by which chats can be listed"
    )


class KodeyCreateAgent(_AgentFields):
    name: _Name


class KodeyUpdateAgent(_AgentFields):
    """What is absent stays as it is; null clears, but for the name."""

    name: _Name | None = None


class KodeyListedAgent(Model):
    id: str
    name: str
    slug: str
    description: str | None
    created_at: Second


class KodeyAgent(KodeyListedAgent):
    team_id: str
    type: str | None
    system_prompt: str
    model: str | None
    temperature: float | None
    tools: list[str]
    version: int
    updated_at: Second


class KodeyAgentList(Model):
    agents: list[KodeyListedAgent]


class KodeyRolledBackAgent(Model):
    id: str
    name: str
    version: int
    rolled_back_at: Second


# -- errors


class KodeyError(BaseModel):
    error: str
    message: str


class KodeyUnauthorized(BaseModel):
    message: str


class KodeyForbidden(KodeyError):
    """The last two are told to publishable keys."""

    allowedEndpoints: list[str] | None = None  # noqa: N815 - as it is on the wire
    upgradeInstructions: str | None = None  # noqa: N815 - the same


class KodeyTooManyRequests(KodeyError):
    retryAfter: int  # noqa: N815 - as it is on the wire
