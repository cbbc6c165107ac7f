"""Moving a model's events into the log: whatever ends it, the model's stream is closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from shared.errors import TurnFailed
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.settings import Settings
from shared.turn.events import Event, MessageDelta
from worker.engine.base import EngineEvent, EngineResult
from worker.event_writer import TurnLog
from worker.turn_runner import TurnRunner


class Model:
    is_closed = False

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        try:
            while True:
                yield MessageDelta(text="more")
        finally:
            self.is_closed = True

    def result(self) -> EngineResult:
        return EngineResult()


class FullLog:
    def append(self, event: Event) -> None:
        raise TurnFailed("output_limit", "The turn's output exceeds the size limit")


async def test_a_log_that_is_full_closes_the_stream_of_the_model() -> None:
    settings = Settings(database_url="x", redis_url="x", key_pepper="a pepper for tests")
    nothing = cast("Any", None)
    runner = TurnRunner(
        database=Database("postgresql://nowhere", size=1),
        dispatch=nothing,
        writer=nothing,
        engines=nothing,
        metrics=Metrics(),
        settings=settings,
        on_file_awaited=lambda: None,
        mcp=nothing,
    )
    model = Model()
    with pytest.raises(TurnFailed, match="size limit"):
        await runner.drive(model, cast("TurnLog", FullLog()), total_deadline=1e9)
    assert model.is_closed
