"""A tool of an MCP server as one of ours: bounded when it is listed, called as others are."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog
from pydantic import ConfigDict, JsonValue

from shared.service.mcp_servers import McpServer
from worker.mcp_client.errors import McpFailed, McpUnavailable
from worker.tools.base import Arguments, OfferedTool, Tool, ToolContext, ToolFailed

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock
    from mcp_types import Tool as ListedTool

log = structlog.get_logger(__name__)

MAX_TOOLS: Final = 64
"""Of one server in one run; what it lists beyond is left out."""
MAX_SCHEMA_BYTES: Final = 16_384
"""Of one tool's arguments; a tool with a larger schema is left out."""
MAX_SCHEMA_DEPTH: Final = 32
MAX_SCHEMA_REFERENCES: Final = 24
"""Some providers are sent schemas with each reference written out, which multiplies."""
MAX_DESCRIPTION_CHARS: Final = 2000
MAX_ERROR_CHARS: Final = 4000
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What all providers take as a tool's name."""
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")


class AnyArguments(Arguments):
    """What the model sends; the server checks it."""

    model_config = ConfigDict(extra="allow")


class Caller(Protocol):
    """Who carries a call to the server."""

    async def __call__(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """The server's answer.

        Raises:
            McpUnavailable: there is none.
            McpFailed: the server refused the call.
        """
        ...


class McpTool(Tool[AnyArguments]):
    """One tool of one server during one run."""

    parameters = AnyArguments
    is_deterministic = False

    def __init__(self, listed: ListedTool, name: str, caller: Caller) -> None:
        self.name = name
        self.description = (listed.description or listed.title or "")[:MAX_DESCRIPTION_CHARS]
        self._theirs = listed.name
        self._schema = listed.input_schema
        self._caller = caller

    async def run(self, context: ToolContext, arguments: AnyArguments) -> JsonValue:
        try:
            result = await self._caller(self._theirs, dict(arguments.model_extra or {}))
        except McpUnavailable as error:
            raise ToolFailed(f"The tool's server cannot be reached. {error}") from error
        except McpFailed as error:
            raise ToolFailed(str(error)[:MAX_ERROR_CHARS]) from error
        value = _value(result)
        if result.is_error:
            told = value if isinstance(value, str) else orjson.dumps(value).decode()
            raise ToolFailed(told[:MAX_ERROR_CHARS] or "The tool failed")
        return value

    def json_schema(self) -> dict[str, Any]:
        return self._schema


def offer(
    server: McpServer,
    listed: Iterable[ListedTool],
    caller: Caller,
    *,
    always_asks: bool,
    taken: Container[str],
) -> list[OfferedTool]:
    """What a run is offered of a server's tools, none of it under a name that is taken.

    Our log says what is left out, and why.
    """
    offered: dict[str, OfferedTool] = {}
    for tool in listed:
        if not server.offers(tool.name):
            continue
        name = server.tool_prefix + _NOT_IN_NAMES.sub("_", tool.name)
        problem = _problem(name, tool)
        if problem is None and (name in offered or name in taken):
            problem = "another tool has the name"
        if problem is None and len(offered) >= MAX_TOOLS:
            problem = f"more than {MAX_TOOLS} tools"
        if problem is not None:
            log.warning("mcp.tool_left_out", server=server.name, tool=name[:128], why=problem)
            continue
        asks = always_asks or server.asks_before(tool.name)
        offered[name] = OfferedTool(McpTool(tool, name, caller), asks)
    return list(offered.values())


def _problem(name: str, tool: ListedTool) -> str | None:
    if not _NAME.fullmatch(name):
        return "its name is too long"
    if _is_deep(tool.input_schema, MAX_SCHEMA_DEPTH):
        return "its schema is nested too deep"
    schema = orjson.dumps(tool.input_schema)
    if len(schema) > MAX_SCHEMA_BYTES:
        return "its schema is too large"
    if schema.count(b'"$ref"') > MAX_SCHEMA_REFERENCES:
        return "its schema has too many references"
    return None


def _is_deep(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_is_deep(one, levels - 1) for one in inner)


def _value(result: CallToolResult) -> JsonValue:
    """The structured content where there is one, else texts; what is no text is named only."""
    if result.structured_content is not None:
        value: JsonValue = result.structured_content
        # How servers wrap what is no object itself.
        return value["result"] if isinstance(value, dict) and value.keys() == {"result"} else value
    return "\n".join(map(_text, result.content))


def _text(block: ContentBlock) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"({block.type}, {block.mime_type}, {len(block.data) * 3 // 4} bytes)"
        case "resource_link":
            return f"{block.name}: {block.uri}"
        case "resource":
            text = getattr(block.resource, "text", None)
            return text if isinstance(text, str) else f"(resource {block.resource.uri})"
