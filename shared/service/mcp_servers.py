"""A tenant's tool servers of the Model Context Protocol: the operator's side and the workers'."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import asyncpg

from shared.agents.tool_names import MCP_NAME_PATTERN
from shared.outbound.url_rules import OutboundRules
from shared.postgres.pool import Database
from shared.service.sealing import Sealer

MAX_TOKEN_CHARS: Final = 8192
_NAME: Final = re.compile(MCP_NAME_PATTERN)
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{0,32}")
_TOOL: Final = re.compile(r"[\x21-\x7e]{1,128}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,8192}")


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server as it is added and as runs use it."""

    name: str
    url: str
    tool_prefix: str
    """Before each tool's name, as the model sees it."""
    token: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer …`."""
    tools: frozenset[str] | None = None
    """The server's own names of the tools that are offered; None: all."""
    requires_approval: bool = True
    unattended_tools: frozenset[str] = frozenset()
    """Are called without an approval all the same."""

    def asks_before(self, tool: str) -> bool:
        """Whether a person has to allow each call of this tool."""
        return self.requires_approval and tool not in self.unattended_tools

    def offers(self, tool: str) -> bool:
        return self.tools is None or tool in self.tools


def checked(server: McpServer, rules: OutboundRules) -> McpServer:
    """The server with its URL in the one spelling.

    Raises:
        ValueError: what is wrong with it, in one line.
        UrlRefused: no request may go there.
    """
    if not _NAME.fullmatch(server.name):
        raise ValueError("a name is a-z, 0-9 and single hyphens, 32 characters at most")
    if not _PREFIX.fullmatch(server.tool_prefix):
        raise ValueError("a tool prefix is letters, digits, _ and -, 32 characters at most")
    for tool in (server.tools or frozenset()) | server.unattended_tools:
        if not _TOOL.fullmatch(tool):
            raise ValueError(f"{tool[:40]!r} is no name of a tool")
    if server.tools is not None and not server.unattended_tools <= server.tools:
        raise ValueError("what needs no approval must be among the tools that are offered")
    if server.token is not None and not _TOKEN.fullmatch(server.token):
        raise ValueError(f"a token is 1 to {MAX_TOKEN_CHARS} visible ASCII characters")
    return replace(server, url=str(rules.parse_url(server.url)))


async def add_server(
    database: Database, sealer: Sealer, tenant_id: UUID, server: McpServer
) -> bool:
    """Writes a checked server down; False: the tenant has one of this name."""
    token = server.token
    row = await database.fetch_one(
        "add_mcp_server",
        tenant_id,
        server.name,
        server.url,
        None if token is None else sealer.seal(token, _place(tenant_id, server.name)),
        server.tool_prefix,
        None if server.tools is None else sorted(server.tools),
        server.requires_approval,
        sorted(server.unattended_tools),
    )
    return row is not None


async def list_servers(database: Database, tenant_id: UUID) -> list[asyncpg.Record]:
    """A tenant's servers by name. No token is among it."""
    return await database.fetch_many("list_mcp_servers", tenant_id)


async def remove_server(database: Database, tenant_id: UUID, name: str) -> bool:
    """Forgets a server and its token; False: there was none."""
    return await database.fetch_one("remove_mcp_server", tenant_id, name) is not None


async def find_servers(
    database: Database, sealer: Sealer, tenant_id: UUID, names: Collection[str]
) -> list[McpServer]:
    """Those of `names` that there are, by name, with their tokens.

    Raises:
        SealBroken: a token was sealed under another pepper.
    """
    rows = await database.fetch_many("find_mcp_servers", tenant_id, list(names))
    return [_server(row, sealer, tenant_id) for row in rows]


def _server(row: asyncpg.Record, sealer: Sealer, tenant_id: UUID) -> McpServer:
    sealed, tools = row["sealed_token"], row["tools"]
    return McpServer(
        name=row["name"],
        url=row["url"],
        tool_prefix=row["tool_prefix"],
        token=None if sealed is None else sealer.open(sealed, _place(tenant_id, row["name"])),
        tools=None if tools is None else frozenset(tools),
        requires_approval=row["requires_approval"],
        unattended_tools=frozenset(row["unattended_tools"]),
    )


def _place(tenant_id: UUID, name: str) -> str:
    return f"mcp_servers/{tenant_id}/{name}"
