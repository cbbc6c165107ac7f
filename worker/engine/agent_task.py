"""A run of pydantic-ai in a task of its own, stopped so that nothing of it stays behind.

Trap: pydantic-ai 2.68 must not be cancelled as asyncio cancels. Between starting a task and taking
charge of it (twice before a run's first request, once before each other) a cancel leaves that task
waiting for ever, with all that the run refers to; and a second cancel, while the first one is being
obeyed, can leave the provider's response open, with its place in the connection pool. A cancelled
scope of anyio does neither: the library shields those places from it.

Imported lazily, with the SDKs: see `providers`.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self

import anyio
import structlog
from pydantic_ai import Agent
from pydantic_ai.agent import AgentRun
from pydantic_ai.exceptions import RunTimedOut
from pydantic_ai.messages import AgentStreamEvent

log = structlog.get_logger(__name__)

UNWIND_TIMEOUT_S: Final = 2.0
"""A stopped run closes its connection and ends its tools within so long, or is cancelled rudely."""


class AgentTask:
    """Begins at once to run what `Agent.iter` returned; enter it and iterate for the events.

    Leaving the context ends the run, however often the caller is cancelled meanwhile.

    Raises, while it is iterated:
        RunTimedOut: the run took longer than `timeout_s`.
        Exception: whatever the run raised.
    """

    def __init__(
        self, opening: AbstractAsyncContextManager[AgentRun[None, Any]], timeout_s: float
    ) -> None:
        self.run: AgentRun[None, Any] | None = None
        """What the run has produced so far; None before it has begun."""
        self._opening = opening
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + timeout_s)
        # Without a buffer: the run is one event ahead of the reader at most.
        self._sending, self._events = anyio.create_memory_object_stream[AgentStreamEvent]()
        self._task = asyncio.create_task(self._run())

    async def __aenter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentStreamEvent:
        with contextlib.suppress(anyio.EndOfStream):
            return await self._events.receive()
        await asyncio.wait([self._task])
        self._task.result()
        raise StopAsyncIteration

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._scope.cancel()
        try:
            await _finish(self._task, UNWIND_TIMEOUT_S)
        finally:
            self._events.close()

    async def _run(self) -> None:
        with self._sending, self._scope:
            async with self._opening as run:
                self.run = run
                async for node in run:
                    if Agent.is_model_request_node(node) or Agent.is_call_tools_node(node):
                        async with node.stream(run.ctx) as events:
                            async for event in events:
                                await self._sending.send(event)
        if self._scope.cancelled_caught:
            raise RunTimedOut("The run took longer than it may")


async def _finish(task: asyncio.Task[None], timeout_s: float) -> None:
    """Waits for the end of a stopped task; a cancel of the caller waits with it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    cancel: asyncio.CancelledError | None = None
    while not task.done() and (left_s := deadline - loop.time()) > 0:
        try:
            await asyncio.wait([task], timeout=left_s)
        except asyncio.CancelledError as error:
            cancel = error
    if not task.done():
        log.critical("engine.run_not_unwound", timeout_s=timeout_s)
        task.cancel()
    elif not task.cancelled():
        task.exception()  # retrieved: the reader has had it, or wants none
    if cancel is not None:
        raise cancel
