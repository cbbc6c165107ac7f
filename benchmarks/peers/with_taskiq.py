"""taskiq with taskiq-redis's list broker: its quickest, which loses what a worker holds."""

from __future__ import annotations

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker

from benchmarks.peers.hop import note, redis_url, role, send_all

broker = ListQueueBroker(redis_url())


async def hop(sent_at: float) -> None:
    note(sent_at)


task = broker.task("hop")(hop)


async def work() -> None:
    broker.is_worker_process = True
    await broker.startup()
    await run_receiver_task(broker)


async def enqueue() -> None:
    await broker.startup()
    await send_all(task.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(work() if role() == "worker" else enqueue())
