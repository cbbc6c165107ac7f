"""Liveness: the loop answers. Readiness: Postgres answers. Redis restarts nobody."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.chat.schemas import to_json
from shared.errors import PostgresUnavailable, RedisUnavailable
from shared.redis.connection import RedisReplyError

CHECK_TIMEOUT_S: Final = 1.0


async def livez(_: Request) -> Response:
    """200 as long as the process can answer at all."""
    return _answer(HTTPStatus.OK, {"status": "ok"})


async def readyz(request: Request) -> Response:
    """200 when this process can do its work; Redis is shown and does not count."""
    if request.app.state.draining:
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"})
    async with asyncio.TaskGroup() as group:
        postgres = group.create_task(_postgres_answers(request))
        redis = group.create_task(_redis_answers(request))
    checks = {"postgres": _word(postgres.result()), "redis": _word(redis.result())}
    if postgres.result():
        return _answer(HTTPStatus.OK, {"status": "ok", "checks": checks})
    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "checks": checks})


async def _postgres_answers(request: Request) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await request.app.state.database.ping()
    except (PostgresUnavailable, TimeoutError):
        return False
    return True


async def _redis_answers(request: Request) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await request.app.state.redis.call("PING")
    except (RedisUnavailable, RedisReplyError, TimeoutError):
        return False
    return True


def _word(answers: bool) -> str:
    return "ok" if answers else "unavailable"


def _answer(status: HTTPStatus, body: dict[str, object]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(to_json(body), status, headers, media_type="application/json")
