"""Alive, ready, and neither by Redis' leave."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette

from shared.postgres.pool import Database
from shared.redis.connection import RedisConnection


async def test_ready(anonymous: Any) -> None:
    assert (await anonymous.get("/livez")).status_code == 200
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "checks": {"postgres": "ok", "redis": "ok"}},
    )


async def test_redis_away(anonymous: Any, app: Starlette) -> None:
    app.state.redis = RedisConnection("redis://127.0.0.1:1/0")
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["checks"]["redis"] == "unavailable"
    await app.state.redis.close()


async def test_postgres_away(anonymous: Any, app: Starlette) -> None:
    async with Database("postgresql://nobody@127.0.0.1:1/none", size=1) as away:
        app.state.database = away
        answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["postgres"] == "unavailable"
    assert (await anonymous.get("/livez")).status_code == 200


async def test_draining(anonymous: Any, app: Starlette) -> None:
    app.state.draining = True
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
    assert (await anonymous.get("/livez")).status_code == 200


async def test_a_redis_that_drops_keys_is_told_and_starts_nobody(
    anonymous: Any, app: Starlette, redis: RedisConnection
) -> None:
    await redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        starting = await anonymous.get("/readyz")
        app.state.redis_was_fit = True
        running = await anonymous.get("/readyz")
    finally:
        await redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert (starting.status_code, running.status_code) == (503, 200)
    for answer in (starting, running):
        assert "noeviction" in answer.json()["checks"]["redis"]
    app.state.redis_was_fit = False
    assert (await anonymous.get("/readyz")).status_code == 200


async def test_a_redis_that_is_seen_late_is_looked_at_all_the_same(
    anonymous: Any, app: Starlette, redis: RedisConnection
) -> None:
    known, app.state.redis = app.state.redis, RedisConnection("redis://127.0.0.1:1/0")
    assert (await anonymous.get("/readyz")).status_code == 200
    await app.state.redis.close()
    app.state.redis = known
    await redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert (await anonymous.get("/readyz")).status_code == 503
    finally:
        await redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
