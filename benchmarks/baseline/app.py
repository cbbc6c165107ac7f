"""An API: an insert, arq's enqueue, and one Redis pub/sub connection for every open stream."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.baseline.configuration import PG_DSN, REDIS_HOST, REDIS_PORT


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.pg = await asyncpg.create_pool(PG_DSN, min_size=4, max_size=20)
    app.state.redis = await create_pool(RedisSettings(host=REDIS_HOST, port=REDIS_PORT))
    yield
    await app.state.pg.close()
    await app.state.redis.aclose()


async def create_turn(request: Request) -> Response:
    body, turn_id, state = await request.json(), uuid.uuid4().hex, request.app.state
    await state.pg.execute(
        "insert into turns(id, conversation_id, status, input) values($1,$2,'queued',$3)",
        turn_id,
        body.get("conversation_id", "c"),
        body["input"],
    )
    if request.query_params.get("stream"):
        subscription = state.redis.pubsub()
        await subscription.subscribe(f"turn:{turn_id}")
        await state.redis.enqueue_job("run_turn", turn_id, body["input"], _job_id=turn_id)
        return StreamingResponse(
            relay(subscription, turn_id),
            media_type="text/event-stream",
            headers={"x-turn-id": turn_id},
        )
    await state.redis.enqueue_job("run_turn", turn_id, body["input"], _job_id=turn_id)
    return JSONResponse({"id": turn_id, "status": "queued"}, status_code=202)


async def relay(subscription: Any, turn_id: str) -> AsyncIterator[bytes]:
    try:
        async for message in subscription.listen():
            if message["type"] != "message":
                continue
            yield b"data: " + message["data"] + b"\n\n"
            if json.loads(message["data"])["type"] in ("done", "error", "cancelled"):
                return
    finally:
        await subscription.unsubscribe()
        await subscription.aclose()


async def get_turn(request: Request) -> Response:
    row = await request.app.state.pg.fetchrow(
        "select * from turns where id=$1", request.path_params["id"]
    )
    if row is None:
        return JSONResponse({"error": "not found"}, status_code=404)
    return JSONResponse(
        {
            name: value.isoformat() if hasattr(value, "isoformat") else value
            for name, value in row.items()
        }
    )


async def get_turn_copy(request: Request) -> Response:
    copy = await request.app.state.redis.get("turn-cache:" + request.path_params["id"])
    if copy is None:
        return JSONResponse({"error": "not found"}, status_code=404)
    return JSONResponse(json.loads(copy))


async def cancel_turn(request: Request) -> Response:
    turn_id = request.path_params["id"]
    was_aborted = await Job(turn_id, request.app.state.redis).abort(timeout=5)
    await request.app.state.pg.execute(
        "update turns set status='cancelled' where id=$1 and status in ('queued','running')",
        turn_id,
    )
    return JSONResponse({"cancelled": was_aborted})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/turns", create_turn, methods=["POST"]),
        Route("/turns/{id}", get_turn),
        Route("/rturns/{id}", get_turn_copy),
        Route("/turns/{id}/cancel", cancel_turn, methods=["POST"]),
    ],
)
