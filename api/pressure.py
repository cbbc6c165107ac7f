"""Whether this process keeps up: how late its loop is, how long submits wait for their commit.

Both are smoothed over about a second and have a high and a low mark, so that one slow moment
refuses nobody and a refusal does not flicker.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from shared.metrics import Metrics

LOOK_INTERVAL_S: Final = 0.1
MAX_LOOP_LAG_S: Final = 0.2
MAX_COMMIT_WAIT_S: Final = 0.5
_SMOOTHING_S: Final = 1.0
_MOST: Final = 5
"""Times `high`: no single sample counts for more."""


class Mark:
    """A smoothed value that is high from `high` on until it has fallen to half of that."""

    def __init__(self, high: float) -> None:
        self.value = 0.0
        self.is_high = False
        self._high = high

    def observe(self, sample: float, after_s: float) -> None:
        """Takes the next sample, `after_s` after the last one."""
        # A process that was stopped for a minute is not slow for a minute afterwards.
        sample = min(sample, _MOST * self._high)
        self.value += (1 - math.exp(-after_s / _SMOOTHING_S)) * (sample - self.value)
        self.is_high = self.value >= (self._high / 2 if self.is_high else self._high)


class Pressure:
    """Looks ten times a second; `run` is its loop."""

    def __init__(self, commit_wait_s: Callable[[], float], metrics: Metrics) -> None:
        self.loop_lag = Mark(MAX_LOOP_LAG_S)
        self.commit_wait = Mark(MAX_COMMIT_WAIT_S)
        self._commit_wait_s = commit_wait_s
        self._metrics = metrics

    @property
    def reason(self) -> str | None:
        """What is too slow; None when nothing is."""
        if self.loop_lag.is_high:
            return "loop_lag"
        return "commit_wait" if self.commit_wait.is_high else None

    def look(self, lag_s: float, after_s: float) -> None:
        """Takes one look: the loop was `lag_s` late."""
        self.loop_lag.observe(lag_s, after_s)
        self.commit_wait.observe(self._commit_wait_s(), after_s)
        self._metrics.loop_lag.set(self.loop_lag.value)
        self._metrics.commit_wait.set(self.commit_wait.value)

    async def run(self) -> None:
        """Looks until cancelled."""
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            now = clock()
            self.look(max(0.0, now - looked_at - LOOK_INTERVAL_S), now - looked_at)
            looked_at = now
