"""Words to a worker process, and its sign of life: its subscription ends with its process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import UUID

from shared.redis.connection import RedisConnection
from shared.redis.keys import WORKERS_TTL_S, Keys


class Control:
    """Control over one connection. Raises as `RedisConnection.call`."""

    def __init__(self, connection: RedisConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def cancel(self, worker_id: str, turn_id: UUID) -> bool:
        """Asks a worker to stop a turn; False when no such worker listens."""
        channel = self._keys.control(worker_id)
        return bool(await self._connection.call("PUBLISH", channel, str(turn_id)))

    async def announce_worker(self, worker_id: str) -> None:
        """Puts a worker on the list of those whose silence means something."""
        now = time.time()
        await self._connection.call("ZADD", self._keys.workers, now, worker_id)
        await self._connection.call("EXPIRE", self._keys.workers, WORKERS_TTL_S)

    async def forget_workers(self, worker_ids: Sequence[str]) -> None:
        """Takes workers off the list: they left, or their turns were taken over."""
        if worker_ids:
            await self._connection.call("ZREM", self._keys.workers, *worker_ids)

    async def list_silent_workers(self) -> set[str]:
        """Announced workers without a control subscription: their process is gone."""
        reply = await self._connection.call("ZRANGE", self._keys.workers, 0, -1)
        worker_ids = [item.decode() for item in reply]
        if not worker_ids:
            return set()
        channels = [self._keys.control(worker_id) for worker_id in worker_ids]
        counts = await self._connection.call("PUBSUB", "NUMSUB", *channels)
        return {
            worker_id
            for worker_id, count in zip(worker_ids, counts[1::2], strict=True)
            if count == 0
        }
