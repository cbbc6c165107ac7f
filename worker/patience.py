"""Asking Postgres until it answers, by who can do nothing else meanwhile and is ended by others.

A turn has its deadlines, a step of an automation its time, a worker its drain: so no limit here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import PostgresUnavailable

PAUSE_S: Final = 0.5

T = TypeVar("T")


async def insist(
    ask: Callable[[], Awaitable[T]],
    *,
    on_away: Callable[[PostgresUnavailable], None] | None = None,
) -> T:
    """The answer to `ask`, which is asked again while Postgres is away; `on_away` hears each time.

    An ask whose answer was lost is made twice: it must be harmless then.

    Raises:
        Exception: whatever `ask` raises besides.
    """
    while True:
        try:
            return await ask()
        except PostgresUnavailable as error:
            if on_away is not None:
                on_away(error)
            await asyncio.sleep(PAUSE_S)
