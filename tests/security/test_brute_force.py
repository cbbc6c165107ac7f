"""Guessing keys: 429 after a while, and never for the genuine key, wherever it comes from."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from tests.security.conftest import Target
from tests.security.credentials import api_key, bearer
from tests.security.routes import GUARDED
from tests.security.surfaces import BESIDE
from tests.security.wire import Answer, Request, require_problem, send

LIMIT = 100
_LIST = Request(b"GET", b"/api/v1/chat/threads")


@pytest.fixture
async def port(target: Target) -> AsyncIterator[int]:
    """An API process of its own, with a limit."""
    api = target.product.start_api({"TURNKEEP_AUTH_FAILURES_PER_MINUTE": str(LIMIT)})
    try:
        await api.ready()
        yield api.port
    finally:
        api.end_now()
        target.product.apis.remove(api)


async def guess(port: int) -> Answer:
    return await send(port, _LIST.with_headers(*bearer("vai_sk_" + secrets.token_urlsafe(32))))


@pytest.mark.timeout(90)
async def test_a_thousand_guesses_in_a_minute(target: Target, port: int) -> None:
    genuine = _LIST.with_headers(*bearer(target.owner.keys.good))
    statuses: list[int] = []
    began = time.monotonic()
    for _ in range(9):
        for _ in range(100):
            answer = await guess(port)
            statuses.append(answer.status)
            require_problem(answer)
        assert (await send(port, genuine)).status == 200
    assert statuses == [401] * LIMIT + [429] * (900 - LIMIT)

    async with asyncio.TaskGroup() as group:
        guesses = [group.create_task(guess(port)) for _ in range(100)]
        assert (await send(port, genuine)).status == 200
    assert {task.result().status for task in guesses} == {429}

    refused = guesses[0].result()
    assert 0 < int(refused.header("retry-after") or 0) <= 60
    assert refused.json["detail"] == "Rate limit exceeded"

    never_used = _LIST.with_headers(*api_key(target.colleague.keys.good))
    assert (await send(port, never_used)).status == 200
    assert (await send(port, _LIST)).status == 401, "who sends none has guessed nothing"
    for route in GUARDED:
        for wrong in (bearer("vai_sk_wrong"), api_key("wrong"), bearer("two words")):
            answer = await send(port, route.request(target.owner.place, wrong))
            assert answer.status == 429, route.name
    for front in BESIDE:
        for asked in front.asked:
            request = asked.request(target.owner.ids(front.name), front.carry("x_wrong"))
            answer = await send(port, request)
            front.require(answer, 429, asked.name)
            good = front.credential(target.colleague.keys)
            asked_by_good = asked.request(dict.fromkeys(target.owner.ids(front.name), "x"), good)
            if asked.operation.method == "GET":
                assert (await send(port, asked_by_good)).status in {200, 404}, asked.name
    assert time.monotonic() - began < 60, "the window ended: too slow to tell"
