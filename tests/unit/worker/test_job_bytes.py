"""Background jobs leave as JSON, never as pickle. Plain SET and ZADD: a fake is honest here."""

from __future__ import annotations

import fakeredis
import orjson
from arq.connections import ArqRedis
from arq.constants import job_key_prefix

from shared.jobs import PURGE_IDEMPOTENCY_KEYS, deserialize_job, serialize_job
from shared.redis.keys import Keys

QUEUE = Keys().jobs


async def test_an_enqueued_job_is_json_that_the_worker_reads() -> None:
    fake = fakeredis.FakeAsyncRedis()
    pool = ArqRedis(
        connection_pool=fake.connection_pool,
        job_serializer=serialize_job,
        job_deserializer=deserialize_job,
        default_queue_name=QUEUE,
    )
    job = await pool.enqueue_job(PURGE_IDEMPOTENCY_KEYS, _job_id="nightly")
    assert job is not None
    stored = await fake.get(f"{job_key_prefix}nightly")
    assert orjson.loads(stored)["f"] == PURGE_IDEMPOTENCY_KEYS
    assert deserialize_job(stored)["a"] in ([], ())
    assert await fake.zcard(QUEUE) == 1
    await pool.aclose()
    await fake.aclose()


async def test_the_same_job_is_not_enqueued_twice() -> None:
    fake = fakeredis.FakeAsyncRedis()
    pool = ArqRedis(
        connection_pool=fake.connection_pool,
        job_serializer=serialize_job,
        default_queue_name=QUEUE,
    )
    assert await pool.enqueue_job(PURGE_IDEMPOTENCY_KEYS, _job_id="once") is not None
    assert await pool.enqueue_job(PURGE_IDEMPOTENCY_KEYS, _job_id="once") is None
    await pool.aclose()
    await fake.aclose()
