"""The Zylon workspace surface as one thing."""

from __future__ import annotations

from typing import Final

from api.surface import Surface
from api.zylon import artifacts, chat, interactions, projects, threads
from api.zylon.access import BASE
from api.zylon.dialect import tell

SURFACE: Final = Surface(
    "zylon",
    (BASE,),
    tell,
    operations=(
        *projects.OPERATIONS,
        *threads.OPERATIONS,
        *interactions.OPERATIONS,
        *chat.OPERATIONS,
        *artifacts.OPERATIONS,
    ),
)
