"""What a fault is, and what it may touch."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fixtures.proxy import Link

if TYPE_CHECKING:
    from tests.chaos.deployment import Deployment
    from tests.chaos.workload import Workload


class FaultMissed(AssertionError):
    """A fault left no trace: whatever was observed meanwhile proves nothing."""


class FaultSkipped(Exception):
    """This machine cannot do it; the message says what is missing."""


@dataclass
class Arena:
    """The deployment under load. `pace` stretches the windows of faults: 1 is the short profile."""

    deployment: Deployment
    workload: Workload
    provider: Link
    """The only way to the model provider."""
    chance: random.Random
    pace: float = 1.0

    def seconds(self, short: float, most: float) -> float:
        """A window: `short` in the short profile, up to `most` in the long one."""
        return max(2.0, min(most, short * self.pace))

    def times(self, short: int, most: int) -> int:
        """How often, likewise."""
        return max(1, min(most, round(short * self.pace)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """That a fault happened: how often, what showed it, and figures of its own."""

    times: int
    seen: str
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.times < 1:
            raise FaultMissed(self.seen)


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `inject` does it, heals it, and returns the proof that it happened."""

    id: str
    title: str
    layer: str
    inject: Callable[[Arena], Awaitable[Evidence]]
    in_short: bool = True
    expects_outage: bool = False
    """Accepts may be refused while it lasts, because Postgres or every API is away."""
    needs_small_disk: bool = False
    """Postgres has a small disk of its own: such faults have a deployment of their own."""
