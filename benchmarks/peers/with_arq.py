"""arq as it comes; `POLL` is its poll_delay."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from arq import Worker, create_pool
from arq.connections import RedisSettings

from benchmarks.peers.hop import note, redis_port, role, send_all


async def hop(ctx: dict[str, Any], sent_at: float) -> None:
    note(sent_at)


async def enqueue() -> None:
    pool = await create_pool(RedisSettings(port=redis_port()))
    await send_all(lambda sent_at: pool.enqueue_job("hop", sent_at))
    await pool.aclose()


if __name__ == "__main__":
    if role() == "worker":
        asyncio.set_event_loop(uvloop.new_event_loop())
        poll_s = float(os.environ.get("POLL", "0.5"))
        Worker([hop], redis_settings=RedisSettings(port=redis_port()), poll_delay=poll_s).run()
    else:
        uvloop.run(enqueue())
