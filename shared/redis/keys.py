"""Every Redis key and channel of ours, in one place, with the lane's hash tag and a TTL.

arq names the rest itself (`arq:…`, for background jobs); its queue is `jobs` and has no TTL.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from uuid import UUID

DISPATCH_TTL_S: Final = 3600
"""Lines, busy sets, ready turns: refreshed at each touch; the sweeper restores what expires."""
GENERATION_TTL_S: Final = 86_400
"""Refreshed by every sweeper pass; when nobody sweeps for a day, a rebuild follows."""
WORKERS_TTL_S: Final = 60
FEEDS: Final = 64
"""Channels that all turns share. Every process must know the same number."""


@dataclass(frozen=True)
class Keys:
    """Names under one prefix and lane. A lane is one Redis Cluster slot: scripts stay inside it."""

    prefix: str = "tk"
    lane: str = "0"

    @cached_property
    def _base(self) -> str:
        return f"{self.prefix}:{{{self.prefix}{self.lane}}}"

    def _key(self, *parts: str) -> str:
        return ":".join((self._base, *parts))

    @cached_property
    def generation(self) -> str:
        """String: random token made after every start or loss of Redis."""
        return self._key("generation")

    @cached_property
    def ready(self) -> str:
        """Sorted set: turns a worker may claim, by virtual start time."""
        return self._key("ready")

    @cached_property
    def clock(self) -> str:
        """String: virtual time of the last turn claimed."""
        return self._key("clock")

    @cached_property
    def tags(self) -> str:
        """Hash: virtual finish time per tenant."""
        return self._key("tags")

    @cached_property
    def workers(self) -> str:
        """Sorted set: worker ids by the Unix time of their last heartbeat."""
        return self._key("workers")

    def line(self, tenant_id: UUID, concurrency_key: str) -> str:
        """Sorted set: turns waiting on one concurrency key, by accept order."""
        return self._key("line", self._digest(tenant_id, concurrency_key))

    def busy(self, tenant_id: UUID, concurrency_key: str) -> str:
        """Set: turns of one concurrency key that hold a slot, from promotion to release."""
        return self._key("busy", self._digest(tenant_id, concurrency_key))

    def meta(self, turn_id: UUID) -> str:
        """Hash: attempt, closed, generation, last seq and bytes of a turn's event log."""
        return self._key("turn", str(turn_id), "meta")

    def log(self, turn_id: UUID) -> str:
        """Stream: a turn's events; entry `attempt-seq` ends with the event of that place."""
        return self._key("turn", str(turn_id), "log")

    def feed(self, turn_id: UUID) -> str:
        """Channel: what is appended to the logs of a share of all turns, this one among them."""
        return self._key("feed", str(turn_id.int % FEEDS))

    def control(self, worker_id: str) -> str:
        """Channel: cancels for one worker; its subscription is the worker's sign of life."""
        return self._key("control", worker_id)

    @cached_property
    def jobs(self) -> str:
        """Sorted set: arq's queue of background jobs, by due time."""
        return self._key("jobs")

    @staticmethod
    def _digest(tenant_id: UUID, concurrency_key: str) -> str:
        # A caller's string never becomes part of a key: it may be long or hold any character.
        name = tenant_id.bytes + concurrency_key.encode()
        return hashlib.blake2b(name, digest_size=16).hexdigest()
