"""Loops that a process runs beside its requests: they end with their block, and not before it.

A worker's own loops stand in a task group, where a defect ends the process and its turns go
elsewhere. An API process would take thousands of streams with it; but a loop that has silently
ended is worse. So a defect is logged, and the loop begun again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

log = structlog.get_logger(__name__)

RESTART_PAUSE_S: Final = 1.0

Loop = Callable[[], Awaitable[None]]
"""Goes on until it is cancelled; what it must remember beyond a defect is its object's."""


@asynccontextmanager
async def in_background(*loops: Loop) -> AsyncIterator[None]:
    """Runs every loop in a task of its own while the block runs."""
    tasks = [asyncio.create_task(_keep_running(loop)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _keep_running(loop: Loop) -> None:
    while True:
        try:
            await loop()
        except Exception:  # the outermost boundary of a loop
            name = getattr(loop, "__qualname__", repr(loop))
            log.critical("background.defect", loop=name, exc_info=True)
        await asyncio.sleep(RESTART_PAUSE_S)
