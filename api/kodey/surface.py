"""The Kodey chat and agents surface as one thing."""

from __future__ import annotations

from typing import Final

from starlette.routing import Match, Route
from starlette.types import Scope

from api.kodey import agents, chats, messages
from api.kodey.dialect import tell
from api.kodey.headers import answer_preflight
from api.surface import Surface


class _Preflights(Route):
    """Preflights alone: what is asked with another method is not found, rather than refused."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, told = super().matches(scope)
        return (match, told) if match is Match.FULL else (Match.NONE, {})


SURFACE: Final = Surface(
    "kodey",
    ("/chat", "/agent"),
    tell,
    operations=(*chats.OPERATIONS, *messages.OPERATIONS, *agents.OPERATIONS),
    plain_routes=(
        *(
            Route(path, answer_preflight, methods=["OPTIONS"])
            for path in (chats.CHATS, chats.CHAT, messages.MESSAGES)
        ),
        # A page is told of a path that leads nowhere only if its browser may ask.
        _Preflights(f"{chats.CHATS}/{{rest:path}}", answer_preflight, methods=["OPTIONS"]),
    ),
)
