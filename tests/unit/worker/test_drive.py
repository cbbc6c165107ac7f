"""Moving a model's events into the log: whatever ends it, the model's stream is closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from shared.errors import TurnFailed
from shared.metrics import Metrics
from shared.settings import Settings
from shared.turn.events import Event, MessageDelta
from worker.engine.base import EngineEvent, EngineResult
from worker.event_writer import TurnLog
from worker.turn_drive import Drive


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
    drive = Drive(nothing, cast("TurnLog", FullLog()), nothing, settings, Metrics())
    model = Model()
    with pytest.raises(TurnFailed, match="size limit"):
        await drive.move_events(model, total_deadline=1e9)
    assert model.is_closed
