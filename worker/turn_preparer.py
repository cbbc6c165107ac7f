"""What a claimed turn is run with: its history, its agent with its tools, what is attached.

All of it is read here, and waits for a Postgres that is away; who drives the turn bounds the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from shared.postgres.histories import Histories
from shared.postgres.pool import Database
from shared.settings import Settings
from shared.turn.attached import AttachedText
from shared.turn.history import BYTES_PER_TOKEN, budget_for, history_window
from shared.turn.model import ClaimedTurn
from shared.turn.preceding import PRECEDED, expand, preceding
from worker.approvals import RecordedRun, read_resumption
from worker.attachments import removed
from worker.attachments.reader import TEXTS_AT_ONCE, AttachmentReader
from worker.attachments.shown import as_instructions, count_tokens, read_attached
from worker.context import ContextReader, TurnContext
from worker.engine.base import EngineRequest, EngineRun, Resumption
from worker.engine.registry import Engines
from worker.mcp_client.servers import McpOffer, McpServers
from worker.patience import insist
from worker.tools.base import ToolContext
from worker.tools.shares import TenantShares

if TYPE_CHECKING:
    from shared.outbound.client import GuardedClient

_NO_MCP: Final = McpOffer()
_STORED_SIZE_MARGIN: Final = 4
"""A message is stored with more about it than the token budget counts: ids, times, signatures."""


class TurnPreparer:
    """One per worker: turns share its batches, caches and limits."""

    def __init__(
        self,
        *,
        database: Database,
        engines: Engines,
        settings: Settings,
        on_file_awaited: Callable[[], None],
        mcp: McpServers,
        outbound: GuardedClient | None = None,
    ) -> None:
        self._database = database
        self._engines = engines
        self._settings = settings
        self._on_file_awaited = on_file_awaited
        self._mcp = mcp
        self._outbound = outbound
        self._attached_seats = asyncio.Semaphore(TEXTS_AT_ONCE)
        self._outbound_shares = TenantShares(settings.tool_http_requests_per_tenant)
        self._contexts = ContextReader(database, http_allowed=outbound is not None)
        self._histories = Histories(
            database,
            max_messages=settings.history_max_messages,
            max_bytes=settings.history_max_tokens * BYTES_PER_TOKEN * _STORED_SIZE_MARGIN,
        )

    async def read_resumption(self, turn: ClaimedTurn) -> Resumption:
        """What a turn goes on from that was parked."""
        return await read_resumption(self._database, turn)

    async def prepare(
        self, turn: ClaimedTurn, stack: AsyncExitStack, resumption: Resumption | None = None
    ) -> EngineRun:
        """The engine's run of a turn, with the history it may see; `stack` ends with the run.

        Raises:
            TurnFailed: the model or the settings are no good.
        """
        rows: list[asyncpg.Record] = []
        if turn.has_history:
            rows = await insist(lambda: self._histories.read(turn))
        context = await self._contexts.read(turn)
        agent = context.agent
        mcp = _NO_MCP
        if agent.mcp and self._engines.offers_tools(turn.model_id):
            mcp = await stack.enter_async_context(self._mcp.open(turn, agent.mcp, agent.tools))
        max_tokens = budget_for(turn.model_id, self._settings.history_max_tokens)
        attached: Sequence[AttachedText] = ()
        if turn.has_attachments:
            attached = await self._load_attached(turn, max_tokens // 2)
            max_tokens -= count_tokens(attached)
        told = expand([dict(row) for row in rows])
        if turn.settings.get(PRECEDED):
            told += await self._load_preceding(turn)
        window = history_window(told, max_tokens)
        shown = await self._without_removed(turn, window.rows)
        request = EngineRequest(
            turn_id=turn.id,
            thread_id=turn.thread_id,
            tenant_id=turn.tenant_id,
            model_id=turn.model_id,
            settings=agent.sampling | turn.settings if agent.sampling else turn.settings,
            instructions=context.instructions(turn, as_instructions(attached), mcp.instructions()),
            history=[m for m in map(_as_model_message, shown) if m is not None],
            prompt=turn.prompt,
            tools=agent.tools + mcp.tools,
            tool_context=self._tool_context(turn, context),
            max_cost=agent.max_cost,
            resumption=resumption,
        )
        run = self._engines.engine_for(turn.model_id).start(request)
        return run if resumption is None else RecordedRun(run, self._database, turn, resumption)

    def _tool_context(self, turn: ClaimedTurn, context: TurnContext) -> ToolContext:
        return ToolContext(
            tenant_id=turn.tenant_id,
            user_id=turn.user_id,
            thread_id=turn.thread_id,
            turn_id=turn.id,
            timezone=context.timezone,
            now=_utc_now,
            attached=AttachmentReader(self._database, self._attached_seats, turn),
            outbound=self._outbound,
            outbound_shares=self._outbound_shares,
        )

    async def _load_preceding(self, turn: ClaimedTurn) -> list[dict[str, Any]]:
        """What the turn's own request brought along before its message."""
        row = await insist(
            lambda: self._database.for_tenant(turn).fetch_one(
                "get_message", turn.input_message_id, turn.tenant_id, turn.thread_id
            )
        )
        return [] if row is None else preceding(row["raw_data"])

    async def _load_attached(self, turn: ClaimedTurn, max_tokens: int) -> list[AttachedText]:
        return await insist(
            lambda: read_attached(
                self._database,
                turn,
                max_tokens,
                wait_s=self._settings.ingestion_wait_s,
                on_waiting=self._on_file_awaited,
            )
        )

    async def _without_removed(
        self, turn: ClaimedTurn, rows: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Asks Postgres only where a tool has read an attachment."""
        told = removed.find_told(rows)
        if not told:
            return rows
        living = await insist(
            lambda: self._database.for_tenant(turn).fetch_many(
                "find_living_attachments", turn.tenant_id, turn.thread_id, list(told)
            )
        )
        return removed.without(rows, told - {row["id"] for row in living})


def _as_model_message(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """None: nothing that a provider would take."""
    raw = row["raw_data"]
    if raw is not None:
        return dict(raw)
    # A surface stores what it is given. A result of which no call is known is no user's word.
    if row["role"] == "tool" or not row["content"].strip():
        return None
    if row["role"] == "assistant":
        return {"kind": "response", "parts": [{"part_kind": "text", "content": row["content"]}]}
    part_kind = "system-prompt" if row["role"] == "system" else "user-prompt"
    return {"kind": "request", "parts": [{"part_kind": part_kind, "content": row["content"]}]}


def _utc_now() -> datetime:
    return datetime.now(UTC)
