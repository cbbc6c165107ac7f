"""saq over Redis, as it comes."""

from __future__ import annotations

from typing import Any

import uvloop
from saq import Queue, Worker

from benchmarks.peers.hop import note, redis_url, role, send_all


async def hop(_: Any, *, sent_at: float) -> None:
    note(sent_at)


async def work() -> None:
    await Worker(Queue.from_url(redis_url()), functions=[hop]).start()


async def enqueue() -> None:
    queue = Queue.from_url(redis_url())
    await queue.connect()
    await send_all(lambda sent_at: queue.enqueue("hop", sent_at=sent_at))
    await queue.disconnect()


if __name__ == "__main__":
    uvloop.run(work() if role() == "worker" else enqueue())
