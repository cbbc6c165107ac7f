"""What a model is told besides the conversation, and the agent that is to run.

In this order: the agent's instructions, the thread's and the turn's own, who asks, what time it is
there, what is attached. What it needs of Postgres is kept: a version of an agent spec for good, a
user's profile for seconds.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog

from shared.agents.default import default_agent_spec
from shared.agents.spec import AgentSpec, stored_agent_spec
from shared.agents.tool_names import MCP_PREFIX
from shared.errors import InvalidRequest, TurnFailed
from shared.postgres.pool import Database
from shared.turn.model import ClaimedTurn
from worker.mcp_client.servers import McpUse
from worker.patience import insist
from worker.recent import Recent
from worker.tools.base import OfferedTool
from worker.tools.registry import tools_of

log = structlog.get_logger(__name__)

PROFILE_GOOD_FOR_S: Final = 10.0
_SCRIPTED: Final = "scripted"
_MAX_NAME_CHARS: Final = 200
_SPARE_BYTES: Final = 4096
"""What is kept besides texts, at most: settings, up to 32 tools, the key."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Who asks. `timezone` is the one the user has stored."""

    name: str
    email: str
    organization: str
    timezone: str | None


@dataclass(frozen=True, slots=True)
class Agent:
    """A version of an agent spec as runs need it."""

    instructions: str
    sampling: dict[str, Any]
    tools: tuple[OfferedTool, ...]
    mcp: tuple[McpUse, ...]
    max_cost: Decimal | None


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What a turn's run is built from, besides its history."""

    agent: Agent
    profile: Profile | None
    timezone: str
    now: datetime

    def instructions(
        self, turn: ClaimedTurn, attached: str | None = None, missing_tools: str | None = None
    ) -> str | None:
        """All that stands before the conversation; `attached` is the section of attached texts.

        None for the scripted model, which reads none.
        """
        if turn.model_id == _SCRIPTED:
            return None
        sections = (
            self.agent.instructions,
            turn.instructions,
            None if self.profile is None else describe_user(self.profile),
            describe_time(self.now, self.timezone),
            missing_tools,
            attached,
        )
        return "\n\n".join(filter(None, sections)) or None


class ContextReader:
    """Reads contexts of turns; one per worker."""

    def __init__(self, database: Database, *, http_allowed: bool) -> None:
        self._database = database
        self._http_allowed = http_allowed
        self._default = self._prepare(default_agent_spec())
        self._agents: Recent[tuple[UUID, int, UUID], Agent] = Recent(
            self._load_agent, good_for_s=math.inf, size_of=_size_of_agent
        )
        self._profiles: Recent[tuple[UUID, UUID], Profile | None] = Recent(
            self._load_profile, good_for_s=PROFILE_GOOD_FOR_S, size_of=_size_of_profile
        )

    async def read(self, turn: ClaimedTurn) -> TurnContext:
        """The context of a turn as of now; waits for a Postgres that is away.

        Raises:
            TurnFailed: `invalid_settings`, this release cannot read the turn's agent spec.
        """
        agent, profile = self._default, None
        if turn.agent_spec_id is not None and turn.agent_spec_version is not None:
            key = (turn.agent_spec_id, turn.agent_spec_version, turn.tenant_id)
            agent = await insist(lambda: self._agents.get(key))
        if _asks_who(turn):
            who = (turn.user_id, turn.tenant_id)
            profile = await insist(lambda: self._profiles.get(who))
        stored = None if profile is None else profile.timezone
        timezone = known_timezone(turn.settings.get("timezone"), stored)
        return TurnContext(agent, profile, timezone, datetime.now(UTC))

    async def _load_agent(self, key: tuple[UUID, int, UUID]) -> Agent:
        row = await self._database.fetch_one("get_agent_spec_version", *key)
        if row is None:  # versions are never deleted
            log.error("agent_spec.version_missing", spec_id=str(key[0]), version=key[1])
            return self._default
        try:
            spec = stored_agent_spec(row["frontmatter"], row["instructions"])
        except InvalidRequest as error:
            message = "This release cannot read the turn's agent spec"
            raise TurnFailed("invalid_settings", message) from error
        return self._prepare(spec)

    def _prepare(self, spec: AgentSpec) -> Agent:
        return Agent(
            instructions=spec.instructions,
            sampling=spec.sampling,
            tools=tools_of(spec, http_allowed=self._http_allowed),
            mcp=_mcp_uses(spec),
            max_cost=spec.frontmatter.permissions.max_cost_per_run,
        )

    async def _load_profile(self, who: tuple[UUID, UUID]) -> Profile | None:
        row = await self._database.fetch_one("get_profile", *who)
        if row is None:
            return None
        return Profile(row["name"], row["email"], row["organization"], row["timezone"])


def _mcp_uses(spec: AgentSpec) -> tuple[McpUse, ...]:
    approved = set(spec.frontmatter.permissions.require_approval)
    return tuple(McpUse(name, MCP_PREFIX + name in approved) for name in spec.mcp_servers)


def known_timezone(*names: object) -> str:
    """The first name that is a time zone, else UTC."""
    for name in names:
        if isinstance(name, str) and 0 < len(name) <= 64:
            try:
                return ZoneInfo(name).key
            except (KeyError, ValueError, OSError):
                continue
    return "UTC"


def describe_user(profile: Profile) -> str:
    """One sentence; names are on one line and bounded, whatever was stored."""
    name, email, organization = (
        " ".join(text.split())[:_MAX_NAME_CHARS]
        for text in (profile.name, profile.email, profile.organization)
    )
    return f"The user is {name} ({email}) of the organization {organization}."


def describe_time(now: datetime, timezone: str) -> str:
    """Day of the week, date and minute in the user's time zone."""
    local = now.astimezone(ZoneInfo(timezone))
    offset = local.strftime("%z")
    told = f"{local:%A}, {local:%Y-%m-%d}, {local:%H:%M}"
    return f"It is {told} in the user's time zone, {timezone} (UTC{offset[:3]}:{offset[3:5]})."


def _size_of_agent(agent: Agent) -> int:
    return _SPARE_BYTES + sys.getsizeof(agent.instructions)


def _size_of_profile(profile: Profile | None) -> int:
    if profile is None:
        return _SPARE_BYTES
    return _SPARE_BYTES + sum(
        map(sys.getsizeof, (profile.name, profile.email, profile.organization, profile.timezone))
    )


def _asks_who(turn: ClaimedTurn) -> bool:
    """Where another talks than the thread's user, nobody is told who that one is.

    The scripted model is told nothing; only its tools may want the user's time zone.
    """
    if turn.settings.get("isAnonymous") is True:
        return False
    if turn.model_id != _SCRIPTED:
        return True
    script = turn.settings.get("script")
    return isinstance(script, dict) and "toolCalls" in script
