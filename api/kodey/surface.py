"""The Kodey chat and agents surface as one thing."""

from __future__ import annotations

from typing import Final

from starlette.routing import Route

from api.kodey import agents, chats, messages
from api.kodey.dialect import tell
from api.kodey.headers import answer_preflight
from api.surface import Surface

SURFACE: Final = Surface(
    "kodey",
    ("/chat", "/agent"),
    tell,
    operations=(*chats.OPERATIONS, *messages.OPERATIONS, *agents.OPERATIONS),
    plain_routes=tuple(
        Route(path, answer_preflight, methods=["OPTIONS"])
        for path in (chats.CHATS, chats.CHAT, messages.MESSAGES)
    ),
)
