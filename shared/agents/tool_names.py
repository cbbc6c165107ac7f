"""The tools an agent spec can name. The worker implements exactly these, which a test holds."""

from __future__ import annotations

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
