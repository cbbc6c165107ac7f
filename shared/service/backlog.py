"""How many turns wait, how fast they leave, and whether one more may come.

One query a second or so counts what waits; between two counts a process adds what it has accepted
itself. So a question costs a few look-ups, and the limits are held nearly, not exactly: processes
learn of each other's turns with the next count, and a key is counted from a tenth of its limit on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self
from uuid import UUID

from shared.errors import Overloaded, PostgresUnavailable, QueueFull, Saturated
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.settings import Settings

COUNT_INTERVAL_S: Final = 1.0
COUNT_INTERVAL_WHEN_FULL_S: Final = 0.1
"""Where turns are refused, room is noticed soon: a short queue must not run dry meanwhile."""
COUNT_SHARE: Final = 0.02
"""Of the time, at most, that Postgres may spend on counts for one process."""
STALE_S: Final = 60.0
"""Without a count for so long nobody knows, and nothing is refused."""
MAX_RETRY_AFTER_S: Final = 60
_LEAST_SHARE: Final = 10
_SMOOTHING_S: Final = 10.0

Scope = UUID | tuple[UUID, str] | None
"""Whose turns: a tenant's, a key's, or everybody's."""
Scopes = tuple[None, UUID, tuple[UUID, str]]
"""All that one turn belongs to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most turns that may wait; 0 is no limit. `deadline_s` is how long one may."""

    per_key: int
    per_tenant: int
    total: int
    deadline_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            per_key=settings.max_queued_per_key,
            per_tenant=settings.max_queued_per_tenant,
            total=settings.max_queued,
            deadline_s=settings.queue_ttl_s,
        )


@dataclass(frozen=True, slots=True)
class Count:
    """What waited at one moment. `newest` is the highest accept_seq of it, None when none waits."""

    taken_at: float
    waiting: dict[Scope, int]
    newest: int | None = None
    tenants: int = 0
    claimable: int = 0
    """Keys that wait for a worker alone, not for a turn of their own."""
    took_s: float = 0.0

    @property
    def total(self) -> int:
        return self.waiting.get(None, 0)


class Outflow:
    """Turns per second that leave the queue, as two counts tell: accepted − more that wait.

    `per_s` is None until it is known. It is what the workers can do only while enough wait for
    them; when they have nothing to do, because turns wait for others of their key, say, a count
    says no more than that they can do at least so much.
    """

    def __init__(self) -> None:
        self.per_s: float | None = None
        self._since: Count | None = None

    def observe(self, count: Count) -> None:
        """Learns from the next count."""
        since = self._since
        if since is None or since.newest is None or count.newest is None:
            self._since = count
            return
        took_s = count.taken_at - since.taken_at
        left = (count.newest - since.newest) - (count.total - since.total)
        if took_s <= 0 or left <= 0:
            return  # a slow or absent fleet: measured over a longer time, never taken for zero
        self._since = count
        sample = left / took_s
        if min(since.claimable, count.claimable) < left:
            self.per_s = max(self.per_s or 0.0, sample)
        elif self.per_s is None:
            self.per_s = sample
        else:
            weight = 1 - math.exp(-took_s / _SMOOTHING_S)
            self.per_s += weight * (sample - self.per_s)


@dataclass(slots=True)
class _Own:
    """What this process has accepted, by whose it is."""

    turns: dict[Scope, int] = field(default_factory=dict)

    def add(self, scopes: Scopes, number: int) -> None:
        turns = self.turns
        for scope in scopes:
            left = turns.get(scope, 0) + number
            if left:
                turns[scope] = left
            else:
                del turns[scope]


class Backlog:
    """Tells whether one more turn may wait. Refuses nothing before the first `update`."""

    def __init__(self, limits: Limits, *, chance: Callable[[], float] = random.random) -> None:
        self.limits = limits
        self.outflow = Outflow()
        self.refused = asyncio.Event()
        """Somebody has been refused since the last count."""
        self._chance = chance
        self._count: Count | None = None
        self._entering = _Own()
        self._since = _Own()
        self._during: _Own | None = None
        """Accepted since the count began that is under way."""

    def find_refusal(self, tenant_id: UUID, concurrency_key: str) -> Overloaded | None:
        """Why one more turn of this key may not wait; None when it may."""
        count = self._count
        if count is None:
            return None
        refusal = (
            self._check((tenant_id, concurrency_key), self.limits.per_key, _OF_KEY)
            or self._check(tenant_id, self.limits.per_tenant, _OF_TENANT)
            or self._check(None, self.limits.total, _OF_ALL)
            or self._check_wait(count, tenant_id)
        )
        if refusal is not None:
            self.refused.set()
        return refusal

    def enter(self, tenant_id: UUID, concurrency_key: str) -> Scopes:
        """Counts a turn while it is being accepted; `leave` wants what this returns."""
        scopes = (None, tenant_id, (tenant_id, concurrency_key))
        self._entering.add(scopes, 1)
        return scopes

    def leave(self, scopes: Scopes, *, accepted: bool) -> None:
        """The turn has been accepted, or has not."""
        self._entering.add(scopes, -1)
        if not accepted:
            return
        if self._count is not None:
            self._since.add(scopes, 1)
        if self._during is not None:
            self._during.add(scopes, 1)

    def begin_count(self) -> None:
        """A count is being taken: what is accepted from here on may not be in it."""
        self._during = _Own()

    def update(self, count: Count) -> None:
        """Takes the count that was begun."""
        self._count = count
        self._since, self._during = self._during or _Own(), None
        self.refused.clear()
        self.outflow.observe(count)

    def forget(self) -> None:
        """Nobody knows any more how many wait."""
        self._count = self._during = None
        self._since = _Own()

    def _depth(self, scope: Scope) -> int:
        counted = 0 if self._count is None else self._count.waiting.get(scope, 0)
        own = self._since.turns.get(scope, 0) + self._entering.turns.get(scope, 0)
        return counted + own

    def _check(self, scope: Scope, limit: int, words: tuple[str, str]) -> Overloaded | None:
        depth = self._depth(scope)
        if not limit or depth < limit:
            return None
        # Room for a tenth of the limit: who comes again should not meet the next full queue. Of
        # what leaves, a part of the queue has its share.
        excess = depth - limit + limit / _LEAST_SHARE
        wait_s = self._time_for(excess * max(1.0, self._depth(None) / max(depth, 1)))
        reason, message = words
        return QueueFull(message, reason=reason, retry_after_s=self._retry_after_s(wait_s))

    def _check_wait(self, count: Count, tenant_id: UUID) -> Overloaded | None:
        """A tenant waits for its own turns, with as many others in between as tenants wait."""
        ahead = min(self._depth(None), self._depth(tenant_id) * max(1, count.tenants))
        wait_s = self._time_for(ahead)
        if wait_s is None or wait_s <= self.limits.deadline_s:
            return None
        return Saturated(
            "The turn would not be started within its queue time",
            reason="wait",
            retry_after_s=self._retry_after_s(wait_s - self.limits.deadline_s),
        )

    def _time_for(self, turns: float) -> float | None:
        """How long so many turns take to leave; None when nobody knows."""
        return None if self.outflow.per_s is None else turns / self.outflow.per_s

    def _retry_after_s(self, wait_s: float | None) -> int:
        """Spread over half as much again, so that those who were refused do not come together."""
        wait_s = (2.0 if wait_s is None else wait_s) * (1 + self._chance() / 2)
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait_s)))


_OF_KEY: Final = ("queue_key", "Too many turns wait under this concurrency key")
_OF_TENANT: Final = ("queue_tenant", "Too many turns of this tenant wait")
_OF_ALL: Final = ("queue_all", "Too many turns wait")


class BacklogCounter:
    """Counts what waits; `run` is its loop."""

    def __init__(self, database: Database, backlog: Backlog, metrics: Metrics) -> None:
        self._database = database
        self._backlog = backlog
        self._metrics = metrics
        self._counted_at = -math.inf

    async def count(self) -> float:
        """Counts once; returns the seconds that Postgres took. Raises as `Database.fetch_many`."""
        limits = self._backlog.limits
        self._backlog.begin_count()
        rows = await self._database.fetch_many(
            "read_backlog",
            max(1, limits.per_tenant // _LEAST_SHARE),
            max(1, limits.per_key // _LEAST_SHARE),
        )
        count = _read(rows, asyncio.get_running_loop().time())
        self._backlog.update(count)
        self._metrics.queued_turns.set(count.total)
        self._metrics.queue_outflow.set(self._backlog.outflow.per_s or 0.0)
        return count.took_s

    async def run(self) -> None:
        """Counts until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            if clock() - self._counted_at > STALE_S:
                self._backlog.forget()
            took_s = 0.0
            with contextlib.suppress(PostgresUnavailable):
                took_s = await self.count()
                self._counted_at = clock()
            await self._pause(took_s)

    async def _pause(self, took_s: float) -> None:
        await asyncio.sleep(max(COUNT_INTERVAL_WHEN_FULL_S, min(STALE_S / 2, took_s / COUNT_SHARE)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COUNT_INTERVAL_S - COUNT_INTERVAL_WHEN_FULL_S):
                await self._backlog.refused.wait()


def _read(rows: Iterable[Any], taken_at: float) -> Count:
    waiting: dict[Scope, int] = {}
    newest, tenants, claimable, took_s = None, 0, 0, 0.0
    for row in rows:
        tenant_id, key = row["tenant_id"], row["concurrency_key"]
        if tenant_id is None:
            waiting[None] = row["waiting"]
            newest, tenants = row["newest"], row["tenants"]
            claimable, took_s = row["claimable"], row["took_s"]
        else:
            waiting[tenant_id if key is None else (tenant_id, key)] = row["waiting"]
    return Count(taken_at, waiting, newest, tenants, claimable, took_s)
