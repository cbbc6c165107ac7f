"""The agent of a tenant that has chosen none: written down for it when it first looks."""

from __future__ import annotations

from functools import cache
from typing import Final

from shared.agents.spec import AgentSpec, parse_agent_spec

DEFAULT_SLUG: Final = "default"
DEFAULT_MARKDOWN: Final = """\
---
name: Assistant
slug: default
mode: primary
description: Answers with the tools that need no configuration
tools: [calculator, current_time, read_attachment, search_attachments]
---
You are a helpful assistant. Calculate with the calculator, not in your head.
"""


@cache
def default_agent_spec() -> AgentSpec:
    """The default spec, parsed."""
    spec, _ = parse_agent_spec(DEFAULT_MARKDOWN)
    return spec
