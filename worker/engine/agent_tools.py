"""Our tools as pydantic-ai's. Imported lazily, with the SDKs: see `providers`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pydantic_ai.exceptions import ToolFailed as AiToolFailed
from pydantic_ai.tools import Tool as AiTool
from pydantic_ai.toolsets import FunctionToolset

from worker.tools.base import OfferedTool, Tool, ToolContext, ToolFailed, call_tool


def toolset_of(
    offered: Sequence[OfferedTool], context: ToolContext, *, timeout_s: float
) -> FunctionToolset[None]:
    """A toolset for one run. A failed call is a failed result, which the model reads."""
    tools: list[AiTool[None]] = []
    for one in offered:
        tool: AiTool[None] = AiTool.from_schema(
            _function(one.tool, context, timeout_s),
            name=one.tool.name,
            description=one.tool.description,
            json_schema=one.tool.json_schema(),
        )
        tool.requires_approval = one.requires_approval
        tools.append(tool)
    return FunctionToolset(tools)


def _function(
    tool: Tool[Any], context: ToolContext, timeout_s: float
) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(**arguments: Any) -> Any:
        try:
            return await call_tool(tool, context, arguments, timeout_s=timeout_s)
        except ToolFailed as failure:
            raise AiToolFailed(str(failure)) from failure

    return call
