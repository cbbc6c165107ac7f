"""What an agent has of MCP servers, and the way to them. Light: every worker loads it.

The protocol's library costs a third of a second and 20 MB. It is imported, in a thread, by the
first turn whose agent names a server.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.postgres.pool import Database
from shared.settings import Settings
from shared.turn.model import ClaimedTurn
from worker.tools.base import OfferedTool

if TYPE_CHECKING:
    from worker.mcp_client.connections import Connections


@dataclass(frozen=True, slots=True)
class McpUse:
    """A server that an agent's spec names."""

    server: str
    always_asks: bool
    """Whether the spec wants each call of its tools approved, whatever is set for the server."""


@dataclass(frozen=True, slots=True)
class McpOffer:
    """What a run has of its servers; `missing` has why for each that could not be reached."""

    tools: tuple[OfferedTool, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()

    def instructions(self) -> str | None:
        """What a model is told, so that it does not invent what it cannot look up."""
        if not self.missing:
            return None
        told = "; ".join(f"{name} ({why})" for name, why in self.missing)
        return f"Tool servers that cannot be reached now, so that their tools are missing: {told}."


class McpServers:
    """Opens sessions for runs; each is the run's own and ends with it. One object per worker."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._loading = asyncio.Lock()
        self._connections: Connections | None = None

    @asynccontextmanager
    async def open(
        self, turn: ClaimedTurn, uses: Sequence[McpUse], taken: Sequence[OfferedTool]
    ) -> AsyncIterator[McpOffer]:
        """The tools of the servers, for as long as the block runs; leaving it waits for nobody.

        `taken` are tools that the run has besides. A server that cannot be reached is missing.

        Raises:
            TurnFailed: `invalid_settings`, a server was removed, or its token cannot be read.
        """
        connections = self._connections or await self._load()
        async with connections.open(turn, uses, taken) as offer:
            yield offer

    async def aclose(self) -> None:
        """Ends what is left of sessions and connections."""
        if self._connections is not None:
            await self._connections.aclose()

    async def _load(self) -> Connections:
        async with self._loading:
            if self._connections is None:
                await asyncio.to_thread(importlib.import_module, "worker.mcp_client.connections")
                from worker.mcp_client.connections import Connections

                self._connections = Connections(self._database, self._settings)
            return self._connections
