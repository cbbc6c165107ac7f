"""Background jobs and turns share a process: what is wrong with a job harms no turn."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from arq import Worker

from shared.ids import new_id
from shared.jobs import PURGE_IDEMPOTENCY_KEYS
from shared.redis.connection import RedisConnection
from shared.turn.model import Principal
from shared.turn.state import TurnStatus
from tests.fixtures.system import Api, MakeTurn, StartWorker
from tests.fixtures.waiting import wait_until
from worker import jobs, turn_worker

JOB: dict[str, Any] = {"f": PURGE_IDEMPOTENCY_KEYS, "a": [], "k": {}, "t": None, "et": 1}


@pytest.fixture
async def job_id(redis: RedisConnection, redis_prefix: str) -> AsyncIterator[str]:
    yield f"{redis_prefix}-job"
    for kind in ("job", "retry", "in-progress", "result"):
        await redis.call("DEL", f"arq:{kind}:{redis_prefix}-job")


@pytest.mark.parametrize(
    "wrong",
    [
        {"f": ["a list"]},
        {"f": "nobody knows it"},
        {"a": 5},
        {"k": {"unexpected": 1}},
        {"t": "once"},
        {"et": "soon"},
        {"et": 10**18},
        {"et": None},
    ],
    ids=str,
)
async def test_a_wrong_job_ends_alone(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    redis: RedisConnection,
    job_id: str,
    wrong: dict[str, Any],
) -> None:
    await redis.call("SET", f"arq:job:{job_id}", orjson.dumps({**JOB, **wrong}), "EX", 60)
    await redis.call("ZADD", api.keys.jobs, int(time.time() * 1000), job_id)
    worker = await start_worker()

    async def is_gone() -> bool:
        return not await redis.call("EXISTS", api.keys.jobs)

    await wait_until(is_gone, "the job is over")
    await wait_until(lambda: worker.worker.jobs_failed == 1, "it has failed")
    await wait_until(lambda: not worker.worker.tasks, "arq has looked at how it ended")
    ended = await api.end_of(await api.submit(make_turn()))
    assert ended.status is TurnStatus.COMPLETED
    assert not worker.main.done()
    await worker.drain()


async def test_a_socket_closed_under_a_poll_for_jobs_ends_no_turn(
    api: Api, start_worker: StartWorker, make_turn: MakeTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[float] = []

    async def poll(_: Worker) -> None:
        polls.append(time.monotonic())
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    monkeypatch.setattr(Worker, "_poll_iteration", poll)
    monkeypatch.setattr(turn_worker, "JOBS_INTERVAL_S", 0.01)
    await start_worker()
    await wait_until(lambda: len(polls) > 1, "it polls again")
    turn = await api.submit(make_turn())
    assert (await api.end_of(turn)).status is TurnStatus.COMPLETED


async def test_tokens_and_sessions_are_forgotten_long_after_their_end(
    api: Api, principal: Principal, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(name: str, kind: str, revoked: str | None, expires: str | None) -> None:
        await admin.execute(
            "insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name, token_type,"
            " revoked_at, expires_at) values ($1, $2, $3, $4::text::bytea, 'p', $4, $5,"
            " now() + $6::text::interval, now() + $7::text::interval)",
            new_id(), principal.tenant_id, principal.user_id, name, kind, revoked, expires,
        )  # fmt: skip

    for kind in ("pat", "session"):
        await add(f"{kind} in use", kind, None, "1 day")
        await add(f"{kind} just revoked", kind, "-1 day", "1 year")
        await add(f"{kind} just expired", kind, None, "-1 day")
        await add(f"{kind} long revoked", kind, "-3 days", "1 year")
        await add(f"{kind} long expired", kind, None, "-3 days")
    await add("key long revoked", "api_key", "-3 days", None)
    await add("key in use", "api_key", None, None)
    settings = api.settings.model_copy(update={"ended_credentials_kept_s": 2 * 86_400})
    monkeypatch.setattr(jobs, "PURGE_PAGE", 2)
    context = {"database": api.database, "settings": settings}
    assert await jobs.purge_credentials(context) == 4
    assert await jobs.purge_credentials(context) == 0
    names = {row["name"] for row in await admin.fetch("select name from api_keys")}
    assert not [name for name in names if "long" in name and not name.startswith("key")]
    assert len(names) == 8
