"""The tools an agent spec can name. The worker implements exactly these, which a test holds.

Besides, `mcp:<name>` names all tools of a server of the tenant: docs/mcp.md.
"""

from __future__ import annotations

import re
from typing import Final

CALCULATOR: Final = "calculator"
CURRENT_TIME: Final = "current_time"
READ_ATTACHMENT: Final = "read_attachment"
SEARCH_ATTACHMENTS: Final = "search_attachments"
HTTP_REQUEST: Final = "http_request"
APPROVAL: Final = "approval"

TOOL_NAMES: Final = (
    CALCULATOR,
    CURRENT_TIME,
    READ_ATTACHMENT,
    SEARCH_ATTACHMENTS,
    HTTP_REQUEST,
    APPROVAL,
)

DETERMINISTIC: Final = frozenset({CALCULATOR, APPROVAL})
"""Tools that give the same for the same arguments, whoever asks and whenever."""

MCP_PREFIX: Final = "mcp:"
MCP_NAME_PATTERN: Final = r"(?=.{1,32}\Z)[a-z0-9]+(?:-[a-z0-9]+)*"


def mcp_server_named(tool: str) -> str | None:
    """The server that `mcp:<name>` names; None for every other text."""
    name = tool.removeprefix(MCP_PREFIX)
    return name if name != tool and re.fullmatch(MCP_NAME_PATTERN, name) else None
