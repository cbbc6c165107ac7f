"""The MCP servers of runs: found, asked for their tools, and left again. Loaded at first use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from mcp_types import CallToolResult
from mcp_types import Tool as ListedTool

from shared.errors import TurnFailed
from shared.outbound.client import GuardedClient
from shared.outbound.configuration import mcp_rules
from shared.postgres.pool import Database
from shared.service.mcp_servers import McpServer, find_servers
from shared.service.sealing import SealBroken, Sealer
from shared.settings import Settings
from shared.turn.model import ClaimedTurn
from worker.mcp_client.errors import McpFailed, McpUnavailable
from worker.mcp_client.servers import McpOffer, McpUse
from worker.mcp_client.session import McpSession
from worker.mcp_client.tools import offer
from worker.patience import insist
from worker.tools.base import OfferedTool

log = structlog.get_logger(__name__)


class Connections:
    """Sessions of all runs of a worker, and the guarded client that they share."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._connect_timeout_s = settings.mcp_connect_timeout_s
        self._sealer = Sealer(settings.key_pepper.get_secret_value().encode())
        self._outbound = GuardedClient.from_settings(settings, mcp_rules(settings))
        self._closing: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Waits for sessions that are being left."""
        if self._closing:
            await asyncio.wait(self._closing)
        await self._outbound.aclose()

    @asynccontextmanager
    async def open(
        self, turn: ClaimedTurn, uses: Sequence[McpUse], taken: Sequence[OfferedTool]
    ) -> AsyncIterator[McpOffer]:
        """As `McpServers.open`."""
        servers = await self._find(turn, [use.server for use in uses])
        connections = [_Connection(server, self._outbound) for server in servers]
        try:
            yield await self._list(connections, uses, taken)
        finally:
            for connection in connections:
                self._start(connection.close())

    async def _find(self, turn: ClaimedTurn, names: list[str]) -> list[McpServer]:
        found = await self._read(turn, names)
        gone = sorted(set(names) - {server.name for server in found})
        if gone:
            message = f"The agent's MCP server was removed: {', '.join(gone)}"
            raise TurnFailed("invalid_settings", message)
        return found

    async def _read(self, turn: ClaimedTurn, names: list[str]) -> list[McpServer]:
        try:
            return await insist(
                lambda: find_servers(self._database, self._sealer, turn.tenant_id, names)
            )
        except SealBroken as error:
            log.exception("mcp.token_unreadable", tenant_id=str(turn.tenant_id))
            message = "The token of an MCP server cannot be read"
            raise TurnFailed("invalid_settings", message) from error

    async def _list(
        self,
        connections: Sequence[_Connection],
        uses: Sequence[McpUse],
        taken: Sequence[OfferedTool],
    ) -> McpOffer:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(c.list_tools(self._connect_timeout_s)) for c in connections]
        always = {use.server for use in uses if use.always_asks}
        tools: list[OfferedTool] = []
        missing: list[tuple[str, str]] = []
        for connection, task in zip(connections, asked, strict=True):
            listed, server = task.result(), connection.server
            if isinstance(listed, str):
                missing.append((server.name, listed))
                continue
            tools += offer(
                server,
                listed,
                connection.call,
                always_asks=server.name in always,
                taken={one.tool.name for one in (*taken, *tools)},
            )
        return McpOffer(tuple(tools), tuple(missing))

    def _start(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Connection:
    """A server during a run: a session, and another one once that is lost."""

    def __init__(self, server: McpServer, outbound: GuardedClient) -> None:
        self.server = server
        self._outbound = outbound
        self._session = McpSession(server, outbound)

    async def list_tools(self, timeout_s: float) -> list[ListedTool] | str:
        """The tools, or why there are none."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._session.list_tools()
        except McpUnavailable as error:
            why = str(error)
        except McpFailed:
            why = "It does not list its tools"  # not in its own words: they become instructions
        except TimeoutError:
            why = f"No answer within {timeout_s:g} s"
        log.warning("mcp.server_unavailable", server=self.server.name)
        return why

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """As `McpSession.call`, in a new session where the last one was lost."""
        if self._session.is_lost:
            self._session = McpSession(self.server, self._outbound)
        return await self._session.call(tool, arguments)

    async def close(self) -> None:
        await self._session.close()
