"""The OpenAI Responses surface as one thing."""

from __future__ import annotations

from typing import Final

from api.responses import conversations, responses
from api.responses.dialect import tell
from api.surface import Surface

SURFACE: Final = Surface(
    "responses",
    (responses.PREFIX, conversations.PREFIX),
    tell,
    operations=(*responses.OPERATIONS, *conversations.OPERATIONS),
)
