"""What a run is offered of what an MCP server lists, and what becomes of its results."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import (
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from mcp_types import Tool as ListedTool

from shared.service.mcp_servers import McpServer
from tests.unit.tools.test_tools import CONTEXT
from worker.mcp_client.errors import McpFailed, McpUnavailable
from worker.mcp_client.tools import (
    MAX_DESCRIPTION_CHARS,
    MAX_ERROR_CHARS,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_REFERENCES,
    MAX_TOOLS,
    offer,
)
from worker.tools.base import OfferedTool, ToolFailed, call_tool

OBJECT = {"type": "object", "properties": {}}


def listed(*names: str, schema: dict[str, Any] | None = None) -> list[ListedTool]:
    return [ListedTool(name=name, input_schema=schema or OBJECT) for name in names]


class Server:
    """Answers every call alike."""

    def __init__(self, answer: CallToolResult | Exception | None = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        self.asked.append((tool, arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or said("ok")


def said(*texts: str, **more: Any) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=t) for t in texts], **more)


def offered(
    found: list[ListedTool],
    /,
    *,
    caller: Server | None = None,
    taken: tuple[str, ...] = (),
    always_asks: bool = False,
    **server: Any,
) -> list[OfferedTool]:
    row = McpServer(**({"name": "s", "url": "https://s.example/", "tool_prefix": "s_"} | server))
    return offer(row, found, caller or Server(), always_asks=always_asks, taken=taken)


def names(tools: list[OfferedTool]) -> list[str]:
    return [one.tool.name for one in tools]


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"p": schema}
    return schema


def test_tools_have_the_prefix_and_names_that_providers_take() -> None:
    assert names(offered(listed("a", "b.c/d é"))) == ["s_a", "s_b_c_d__"]
    assert names(offered(listed("a"), tool_prefix="")) == ["a"]


def test_only_what_is_allowed_is_offered() -> None:
    assert names(offered(listed("a", "b", "c"), tools=frozenset({"c", "a"}))) == ["s_a", "s_c"]


@pytest.mark.parametrize(
    ("server", "always_asks", "asks"),
    [
        ({}, False, [True, True]),
        ({"unattended_tools": frozenset({"a"})}, False, [False, True]),
        ({"requires_approval": False}, False, [False, False]),
        ({"requires_approval": False}, True, [True, True]),
        ({"unattended_tools": frozenset({"a"})}, True, [True, True]),
    ],
)
def test_who_asks_a_person(server: dict[str, Any], always_asks: bool, asks: list[bool]) -> None:
    tools = offered(listed("a", "b"), always_asks=always_asks, **server)
    assert [one.requires_approval for one in tools] == asks


def test_what_is_too_much_is_left_out() -> None:
    many = [str(number) for number in range(MAX_TOOLS + 5)]
    assert len(offered(listed(*many))) == MAX_TOOLS
    large = {"type": "object", "description": "x" * MAX_SCHEMA_BYTES}
    assert offered(listed("a", schema=large)) == []
    assert len(offered(listed("a", schema=nested(MAX_SCHEMA_DEPTH)))) == 1
    assert offered(listed("a", schema=nested(MAX_SCHEMA_DEPTH + 1))) == []
    assert offered(listed("a", schema=nested(900))) == []
    refers = {f"p{n}": {"$ref": "#/$defs/a"} for n in range(MAX_SCHEMA_REFERENCES + 1)}
    assert offered(listed("a", schema={"type": "object", "properties": refers})) == []
    assert offered(listed("a" * 63)) == []
    (described,) = offered([ListedTool(name="a", description="x" * 9999, input_schema=OBJECT)])
    assert len(described.tool.description) == MAX_DESCRIPTION_CHARS


def test_a_name_is_given_once() -> None:
    assert names(offered(listed("a", "a", "b", "b_"), taken=("s_b",))) == ["s_a", "s_b_"]


RESULTS = {
    "text": (said("a", "b"), "a\nb"),
    "nothing": (said(), ""),
    "structured": (said("{}", structured_content={"a": [1]}), {"a": [1]}),
    "wrapped": (said("3", structured_content={"result": 3}), 3),
    "an image": (
        CallToolResult(content=[ImageContent(type="image", data="AAAA", mime_type="image/png")]),
        "(image, image/png, 3 bytes)",
    ),
    "a link": (
        CallToolResult(
            content=[ResourceLink(type="resource_link", name="n", uri="https://s.example/a")]
        ),
        "n: https://s.example/a",
    ),
    "a resource": (
        CallToolResult(
            content=[
                EmbeddedResource(
                    type="resource", resource=TextResourceContents(uri="x://a", text="inside")
                )
            ]
        ),
        "inside",
    ),
}


@pytest.mark.parametrize("kind", RESULTS)
async def test_results_are_json(kind: str) -> None:
    answer, value = RESULTS[kind]
    server = Server(answer)
    (one,) = offered(listed("x.y"), caller=server)
    arguments = {"model_config": 1, "a b": [2]}
    assert await call_tool(one.tool, CONTEXT, arguments, timeout_s=1) == value
    assert server.asked == [("x.y", arguments)], "under the server's own name, unchanged"


FAILURES: dict[str, tuple[CallToolResult | Exception, str]] = {
    "the tool": (said("sold out", is_error=True), "sold out"),
    "silently": (said(is_error=True), "The tool failed"),
    "structured": (said(structured_content={"code": 7}, is_error=True), '{"code":7}'),
    "at length": (said("x" * 9999, is_error=True), "x" * MAX_ERROR_CHARS),
    "refused": (McpFailed("No such tool"), "No such tool"),
    "away": (McpUnavailable("Gone"), "The tool's server cannot be reached. Gone"),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_failures_are_told_to_the_model(kind: str) -> None:
    answer, told = FAILURES[kind]
    (one,) = offered(listed("a"), caller=Server(answer))
    with pytest.raises(ToolFailed) as failed:
        await call_tool(one.tool, CONTEXT, {}, timeout_s=1)
    assert str(failed.value) == told
