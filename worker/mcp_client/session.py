"""One session with an MCP server, in a task of its own. Loaded at first use.

Trap: the library runs a session in task groups. In the caller's task a lost connection would cancel
whatever that task is doing, which is a model's run.

Protocol: https://modelcontextprotocol.io/specification/2026-07-28 and, where a server does not know
it, the versions that begin with `initialize`. Streamable HTTP only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import anyio
import httpx2
import structlog
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    Tool,
)
from pydantic import ValidationError

from shared.outbound.client import GuardedClient
from shared.service.mcp_servers import McpServer
from worker.mcp_client.errors import McpFailed, McpUnavailable
from worker.mcp_client.transport import Trouble, guarded_http

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S: Final = 2.0
MAX_PAGES: Final = 8
_END_TIMEOUT_S: Final = 0.5
_CLOSED: Final = "Connection closed"
"""What the library says of it."""
_US: Final = Implementation(name="turnkeep", version="1")
_BROKEN: Final = (
    OSError,
    RuntimeError,
    ValidationError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    httpx2.HTTPError,
)
"""What the library raises besides its own error when a server does not keep to the protocol."""

# It logs what servers say, and what it cannot read of it: a stranger's text, not for our log.
logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)

T = TypeVar("T")


class McpSession:
    """Connects when it is made. `close` is to be called, whatever happened."""

    def __init__(self, server: McpServer, outbound: GuardedClient) -> None:
        self._server = server
        self._outbound = outbound
        self._is_open = asyncio.Event()
        self._is_over = asyncio.Event()
        self._client: Client | None = None
        self._trouble = Trouble()
        self._asked: set[asyncio.Task[Any]] = set()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_retrieve)

    @property
    def is_lost(self) -> bool:
        return self._task.done()

    async def list_tools(self) -> list[Tool]:
        """What the server offers, the first pages of it.

        Raises:
            McpUnavailable: it did not answer, or in no way that can be read.
        """
        tools: list[Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            client = await self._opened()
            page = await self._ask(client.list_tools(cursor=cursor))
            tools += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return tools

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """What the server made of a call.

        Raises:
            McpUnavailable: as `list_tools` does.
            McpFailed: the server refused it.
        """
        client = await self._opened()
        # Not `client.call_tool`: it holds results against the server's own schemas, whose patterns
        # may take a regular expression minutes.
        params = CallToolRequestParams(name=tool, arguments=arguments)
        return await self._ask(
            client.session.send_request(CallToolRequest(params=params), CallToolResult)
        )

    async def close(self) -> None:
        """Says goodbye to the server, if it listens, and ends the session."""
        self._is_over.set()
        if not self._is_open.is_set():
            self._task.cancel()
        await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)

    async def _run(self) -> None:
        try:
            async with (
                guarded_http(self._outbound, self._server.token, self._trouble) as http,
                Client(
                    streamable_http_client(self._server.url, http_client=http),
                    client_info=_US,
                    cache=None,
                ) as client,
            ):
                self._client = client
                self._is_open.set()
                await self._is_over.wait()
        finally:
            self._client = None

    async def _opened(self) -> Client:
        if not self._is_open.is_set():
            await self._until_done(self._is_open.wait())
        if self._client is None:
            raise self._loss()
        return self._client

    async def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._until_done(question)
        except MCPError as error:
            # Servers use the same code for whatever went wrong with them.
            is_lost = self._trouble.told is not None or error.message == _CLOSED
            if error.code == CONNECTION_CLOSED and is_lost:
                await asyncio.wait([self._task], timeout=_END_TIMEOUT_S)  # it may be ending
                raise self._loss() from error
            raise McpFailed(self._without_token(error.message)) from error
        except _BROKEN as error:
            log.info("mcp.answer_unusable", server=self._server.name, error=type(error).__name__)
            raise McpUnavailable("Its answer cannot be used") from error

    async def _until_done(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer, unless the session ends before; a caller's cancel cancels the question."""
        asked = asyncio.create_task(question)
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        asked.add_done_callback(_retrieve)
        try:
            await asyncio.wait([asked, self._task], return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and not asked.cancelled():
                return asked.result()
            raise self._loss()
        finally:
            asked.cancel()

    def _without_token(self, text: str) -> str:
        """A server's words for people and models to read; some repeat what they refuse."""
        token = self._server.token
        return text if token is None else text.replace(token, "(token)")

    def _loss(self) -> McpUnavailable:
        """Why there is no answer, in words for a model."""
        error = None if self._task.cancelled() or not self._task.done() else self._task.exception()
        # Not what the library says of it: there may be a stranger's words in that, and our token.
        detail = self._trouble.detail or type(error).__name__
        log.info("mcp.connection_lost", server=self._server.name, error=detail)
        return McpUnavailable(self._trouble.told or "The connection was lost")


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Somebody has looked at the exception: who asked has had it, or wants none."""
    if not task.cancelled():
        task.exception()
