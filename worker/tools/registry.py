"""All tools by name, and which of them an agent has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from shared.agents.spec import AgentSpec
from worker.tools.approval import Approval
from worker.tools.attachments import ReadAttachment, SearchAttachments
from worker.tools.base import OfferedTool, Tool
from worker.tools.calculator import Calculator
from worker.tools.current_time import CurrentTime
from worker.tools.http_request import HttpRequest

_ALL: Final[tuple[Tool[Any], ...]] = (
    Calculator(),
    CurrentTime(),
    ReadAttachment(),
    SearchAttachments(),
    HttpRequest(),
    Approval(),
)
TOOLS: Final[Mapping[str, Tool[Any]]] = MappingProxyType({tool.name: tool for tool in _ALL})


def tools_of(spec: AgentSpec, *, http_allowed: bool) -> tuple[OfferedTool, ...]:
    """The tools of an agent in the order of its spec.

    What a spec names and this release or deployment does not have is left out: the deployment may
    have switched it off after the spec was written.
    """
    approved = set(spec.frontmatter.permissions.require_approval)
    return tuple(
        OfferedTool(tool, tool.requires_approval or name in approved)
        for name in spec.frontmatter.tools
        if (tool := TOOLS.get(name)) is not None
        and (http_allowed or not isinstance(tool, HttpRequest))
    )
