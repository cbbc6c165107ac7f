"""Works off what Postgres holds: claims one thing after the other, rests when there is none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from shared.errors import PostgresUnavailable

log = structlog.get_logger(__name__)

_DEFECT_PAUSE_S: Final = 5.0


class ClaimLoop:
    """`work_next` claims and does one thing; it returns whether there was one.

    A ring in Redis only says that there is something; what, Postgres knows. So a thing is found
    again whatever was lost: a ring with Redis by the next look, a worker by its lease.
    """

    def __init__(
        self,
        name: str,
        work_next: Callable[[], Awaitable[bool]],
        *,
        concurrency: int,
        poll_s: float,
    ) -> None:
        self._name = name
        self._work_next = work_next
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There is something to do: look now."""
        self._woken.set()

    async def run(self) -> None:
        """Works until cancelled, on `concurrency` things at a time."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            self._woken.clear()  # before the look: what comes after it is looked for again
            try:
                is_idle = not await self._work_next()
            except PostgresUnavailable as error:
                log.debug("claim_loop.paused", loop=self._name, error=str(error))
                is_idle = True
            except Exception:  # the outermost boundary: one thing must not end the worker
                log.critical("claim_loop.defect", loop=self._name, exc_info=True)
                await asyncio.sleep(_DEFECT_PAUSE_S)
                continue
            if is_idle:
                await self._rest()

    async def _rest(self) -> None:
        poll_s = self._poll_s * random.uniform(0.8, 1.2)  # noqa: S311 - a spread
        try:
            async with asyncio.timeout(poll_s):
                await self._woken.wait()
        except TimeoutError:
            return
