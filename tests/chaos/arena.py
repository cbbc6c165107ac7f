"""What a fault is, and what it may touch."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from shared.redis.connection import RedisConnection
from tests.fixtures.proxy import Link

if TYPE_CHECKING:
    from tests.acceptance.product import Process
    from tests.chaos.deployment import Deployment
    from tests.chaos.workload import Workload


class FaultMissed(AssertionError):
    """A fault left no trace: whatever was observed meanwhile proves nothing."""


class FaultSkipped(Exception):
    """This machine cannot do it; the message says what is missing."""


class Door(Protocol):
    """A port of ours behind which an API listens."""

    @property
    def port(self) -> int: ...


class NamedDoor(Door, Protocol):
    """That of one API."""

    @property
    def name(self) -> str: ...


class Target(Protocol):
    """What users and onlookers need of a deployment, whoever runs it."""

    @property
    def apis(self) -> Sequence[NamedDoor]: ...
    @property
    def client_links(self) -> Sequence[Door]: ...
    @property
    def workers(self) -> Sequence[Process]: ...
    @property
    def database_url(self) -> str: ...

    def admin(self) -> AbstractAsyncContextManager[Any]:
        """A connection to Postgres that sees all rows."""

    def redis(self) -> AbstractAsyncContextManager[RedisConnection]: ...


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
