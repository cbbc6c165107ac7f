"""Liveness: the loop answers. Readiness: Postgres answers. Redis restarts nobody.

But a Redis that drops keys when it is full is a mistake of who set it up, and best told before the
first request: a process that starts on one is not ready. One that runs already only says so.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.state import state_of
from api.wire import json_response
from shared.errors import PostgresUnavailable, RedisUnavailable
from shared.redis.connection import RedisReplyError

CHECK_TIMEOUT_S: Final = 1.0
EVICTS: Final = "evicts keys: set maxmemory-policy to noeviction"

log = structlog.get_logger(__name__)


async def livez(_: Request) -> Response:
    """200 as long as the process can answer at all."""
    return _answer(HTTPStatus.OK, {"status": "ok"})


async def readyz(request: Request) -> Response:
    """200 when this process can do its work; Redis is shown and does not count."""
    state = state_of(request)
    if state.draining:
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"})
    async with asyncio.TaskGroup() as group:
        postgres = group.create_task(_postgres_answers(request))
        redis = group.create_task(_look_at_redis(request))
    checks = {"postgres": _word(postgres.result()), "redis": redis.result()}
    state.redis_was_fit = state.redis_was_fit or redis.result() == "ok"
    if postgres.result() and (state.redis_was_fit or redis.result() != EVICTS):
        return _answer(HTTPStatus.OK, {"status": "ok", "checks": checks})
    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "checks": checks})


async def _postgres_answers(request: Request) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await state_of(request).database.ping()
    except (PostgresUnavailable, TimeoutError):
        return False
    return True


async def _look_at_redis(request: Request) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            info: bytes = await state_of(request).redis.call("INFO", "memory")
    except (RedisUnavailable, RedisReplyError, TimeoutError):
        return "unavailable"
    said = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    if said.get(b"maxmemory_policy", b"noeviction") == b"noeviction":
        return "ok"
    log.warning("redis.evicts", policy=said[b"maxmemory_policy"].decode())
    return EVICTS


def _word(answers: bool) -> str:
    return "ok" if answers else "unavailable"


def _answer(status: HTTPStatus, body: dict[str, object]) -> Response:
    headers = {"cache-control": "no-store"}
    return json_response(body, status, headers)
