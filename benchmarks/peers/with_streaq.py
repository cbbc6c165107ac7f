"""streaq over Redis streams, as it comes."""

from __future__ import annotations

import uvloop
from streaq import Worker

from benchmarks.peers.hop import note, redis_url, role, send_all

worker: Worker[None] = Worker(redis_url=redis_url())


async def hop(sent_at: float) -> None:
    note(sent_at)


task = worker.task(hop)


async def enqueue() -> None:
    async with worker:
        await send_all(task.enqueue)


if __name__ == "__main__":
    if role() == "worker":
        worker.run_sync()
    else:
        uvloop.run(enqueue())
