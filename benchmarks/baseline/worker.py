"""An arq worker: publishes its deltas one by one, then updates Postgres."""

import asyncio
import json
from typing import Any

import asyncpg
import uvloop
from arq import Worker
from arq.connections import RedisSettings

from benchmarks.baseline.configuration import (
    DDL,
    DELTAS,
    GAP_S,
    MAX_JOBS,
    PG_DSN,
    POLL_S,
    REDIS_HOST,
    REDIS_PORT,
)


async def startup(ctx: dict[str, Any]) -> None:
    ctx["pg"] = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=20)
    await ctx["pg"].execute(DDL)


async def run_turn(ctx: dict[str, Any], turn_id: str, text: str) -> None:
    redis, channel, said = ctx["redis"], f"turn:{turn_id}", []
    await ctx["pg"].execute(
        "update turns set status='running', started_at=now() where id=$1", turn_id
    )
    try:
        for number in range(DELTAS):
            if GAP_S:
                await asyncio.sleep(GAP_S)
            token = f" tok{number}"
            said.append(token)
            delta = {"type": "delta", "turn_id": turn_id, "seq": number, "text": token}
            await redis.publish(channel, json.dumps(delta))
    except asyncio.CancelledError:
        await redis.publish(channel, json.dumps({"type": "cancelled", "turn_id": turn_id}))
        raise
    output = "".join(said)
    await ctx["pg"].execute(
        "update turns set status='completed', output=$2, finished_at=now() where id=$1",
        turn_id,
        output,
    )
    copy = {"id": turn_id, "conversation_id": "c", "status": "completed"}
    await redis.set(
        f"turn-cache:{turn_id}", json.dumps({**copy, "input": text, "output": output}), ex=600
    )
    await redis.publish(channel, json.dumps({"type": "done", "turn_id": turn_id}))


if __name__ == "__main__":
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        [run_turn],
        redis_settings=RedisSettings(host=REDIS_HOST, port=REDIS_PORT),
        on_startup=startup,
        max_jobs=MAX_JOBS,
        poll_delay=POLL_S,
        allow_abort_jobs=True,
    ).run()
