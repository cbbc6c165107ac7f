"""One attempt at a turn until it has an outcome: prepared, then its model's events go into the log.

Nothing here is committed. A stop cancels the drive, and `result` tells what there is until then.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Final, assert_never

from shared.errors import TurnFailed
from shared.metrics import Metrics
from shared.settings import Settings
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult, TurnStarted
from shared.turn.model import ClaimedTurn
from shared.turn.retell import retell
from shared.turn.text import storable, storable_json
from worker.engine.base import EngineEvent, EngineResult, EngineRun
from worker.event_writer import TurnLog
from worker.turn_preparer import TurnPreparer

_DEADLINE_STEP_S: Final = 0.5
"""The deadline moves once in so long, not with every event."""
_DELTAS: Final = (MessageDelta, ReasoningDelta)


class Drive:
    """`run` once, in a task of its own; `result` at any time."""

    def __init__(
        self,
        turn: ClaimedTurn,
        turn_log: TurnLog,
        preparer: TurnPreparer,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._turn = turn
        self._turn_log = turn_log
        self._preparer = preparer
        self._settings = settings
        self._metrics = metrics
        self._run: EngineRun | None = None

    async def run(self) -> None:
        """Prepares and drives, in `turn_timeout_s`.

        Raises:
            TurnFailed: the turn or its provider is no good, or a deadline passed.
        """
        total_deadline = asyncio.get_running_loop().time() + self._settings.turn_timeout_s
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(total_deadline):
                    self._run = await self._begin(stack)
            except TimeoutError as error:
                raise _too_long() from error
            await self.move_events(self._run, total_deadline)

    def result(self) -> EngineResult:
        """What the run has produced so far."""
        return EngineResult() if self._run is None else self._run.result()

    async def _begin(self, stack: AsyncExitStack) -> EngineRun:
        turn = self._turn
        if turn.parked_count:
            return await self._go_on(stack)
        self._turn_log.append(TurnStarted(attempt=turn.attempt, model_id=turn.model_id))
        return await self._preparer.prepare(turn, stack)

    async def _go_on(self, stack: AsyncExitStack) -> EngineRun:
        """The run of a turn that was parked, once its readers have heard what led up to it."""
        turn = self._turn
        resumption = await self._preparer.read_resumption(turn)
        told = retell(resumption.messages)
        self._turn_log.append(
            TurnStarted(attempt=turn.attempt, model_id=turn.model_id, retold=len(told))
        )
        for event in told:
            self._turn_log.append(event)
        return await self._preparer.prepare(turn, stack, resumption)

    async def move_events(self, run: EngineRun, total_deadline: float) -> None:
        """Moves the engine's events into the log, under the three deadlines.

        Raises:
            TurnFailed: the provider failed, or a deadline passed.
        """
        settings, turn_log = self._settings, self._turn_log
        loop = asyncio.get_running_loop()
        began = loop.time()
        moved_at = -1.0
        try:
            async with (
                asyncio.timeout_at(
                    min(began + settings.first_token_timeout_s, total_deadline)
                ) as deadline,
                # Closed here and by this task, also when an event is one too many for the log.
                contextlib.aclosing(run.events()) as events,
            ):
                async for event in events:
                    turn_log.append(_storable_event(event))
                    now = loop.time()
                    if moved_at < 0:
                        self._metrics.first_delta.observe(now - began)
                    if now - moved_at >= _DEADLINE_STEP_S:
                        moved_at = now
                        deadline.reschedule(
                            min(now + settings.idle_timeout_s + _DEADLINE_STEP_S, total_deadline)
                        )
        except TimeoutError as error:
            if loop.time() >= total_deadline:
                raise _too_long() from error
            what = "first token" if moved_at < 0 else "answer"
            raise TurnFailed("timeout", f"The model's {what} did not come in time") from error


def _too_long() -> TurnFailed:
    return TurnFailed("timeout", "The turn did not end in time")


def _storable_event(event: EngineEvent) -> EngineEvent:
    """The event as readers and Postgres will both have it: what is streamed is what is kept."""
    if isinstance(event, _DELTAS):
        text = storable(event.text)
        return event if text is event.text else type(event)(text)
    match event:
        case ToolCall() | ToolResult():
            return event.model_copy(update=storable_json(event.model_dump()))
        case _:
            assert_never(event)
