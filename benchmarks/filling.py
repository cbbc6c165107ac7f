"""Rows of a system that has been in use for long, written by SQL into Postgres.

They belong to a tenant of their own. Finished turns stay and are topped up by the next run;
waiting ones stand behind running rows of a worker that is nowhere, and are taken away again.
"""

from __future__ import annotations

import asyncio

import asyncpg

from benchmarks.progress import say
from benchmarks.servers import execute, fetch
from shared.postgres.migrate import migrate

CHUNK = 100_000
THREADS = 100_000
TENANT = "'00000000-0000-7000-8000-00000000f111'::uuid"
USER = "'00000000-0000-7000-8000-00000000f112'::uuid"

# No triggers and no waiting for the disk: the rows are right by construction.
_QUICK = "set session_replication_role = replica; set synchronous_commit = off;"
_OWNER = f"""
insert into tenants (id, name) values ({TENANT}, 'Filler') on conflict do nothing;
insert into users (id, tenant_id, email, name)
values ({USER}, {TENANT}, 'filler@localhost', 'Filler') on conflict do nothing;
insert into threads (id, tenant_id, user_id)
select md5('filler-' || n)::uuid, {TENANT}, {USER} from generate_series(0, {THREADS - 1}) n
on conflict do nothing;
"""  # noqa: S608 - constants of this module
_COUNT = f"select count(*) from usage where tenant_id = {TENANT}"  # noqa: S608 - as above
_FINISHED = f"""
with made as (
    insert into turns (
        id, tenant_id, user_id, thread_id, status, attempt, concurrency_key, input_message_id,
        planned_output_message_id, output_message_id, model_id, settings, usage, last_seq,
        expires_at, started_at, ended_at
    )
    select
        uuidv7(), {TENANT}, {USER}, thread, 'completed', 1, 'thread:' || thread, uuidv7(), answer,
        answer, 'scripted', '{{"script": {{"deltas": 50, "intervalMs": 0}}}}',
        '{{"inputTokens": 6, "outputTokens": 50, "cachedInputTokens": 0}}', 52, now(), now(), now()
    from (
        select md5('filler-' || n % {THREADS})::uuid as thread, uuidv7() as answer
        from generate_series($1::bigint, $2::bigint) n
    ) numbered
    returning id, thread_id, accept_seq, input_message_id, output_message_id
),
asked as (
    insert into messages (id, tenant_id, thread_id, turn_id, turn_seq, role, content, format)
    select input_message_id, {TENANT}, thread_id, id, accept_seq, 'user', repeat('ask ', 8), 'text'
    from made
),
answered as (
    insert into messages (id, tenant_id, thread_id, turn_id, turn_seq, role, content, format)
    select
        output_message_id, {TENANT}, thread_id, id, accept_seq, 'assistant', repeat('say ', 50),
        'text'
    from made
),
keyed as (
    insert into idempotency_keys (tenant_id, scope, key, fingerprint, turn_id)
    select {TENANT}, 'chat', id::text, '\\x00', id from made
)
insert into usage (
    turn_id, tenant_id, model_id, input_tokens, output_tokens, cached_input_tokens
)
select id, {TENANT}, 'scripted', 6, 50, 0 from made
"""  # noqa: S608 - constants of this module
_HELD = f"""
insert into turns (
    id, tenant_id, user_id, thread_id, status, attempt, concurrency_key, slot, worker_id,
    lease_until, input_message_id, planned_output_message_id, model_id, expires_at, started_at
)
select
    uuidv7(), {TENANT}, {USER}, md5('filler-' || n)::uuid, 'running', 1, $1 || n, 1, 'nowhere',
    now() + interval '7 days', uuidv7(), uuidv7(), 'scripted', now() + interval '7 days', now()
from generate_series(1, $2::int) n
"""  # noqa: S608 - constants of this module
_WAITING = f"""
insert into turns (
    id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,
    planned_output_message_id, model_id, expires_at
)
select
    uuidv7(), {TENANT}, {USER}, md5('filler-' || n)::uuid, $1 || (n % $2::int + 1), uuidv7(),
    uuidv7(), 'scripted', now() + interval '7 days'
from generate_series(0, $3::int - 1) n
"""  # noqa: S608 - constants of this module


def fill_finished(dsn: str, wanted: int) -> None:
    """Brings the finished turns up to `wanted`; an interrupted fill goes on where it stopped."""

    async def fill() -> int:
        connection = await _open(dsn)
        try:
            there: int = await connection.fetchval(_COUNT)
            for first in range(there, wanted, CHUNK):
                last = min(first + CHUNK, wanted)
                await connection.execute(_FINISHED, first, last - 1)
                say(f"    {last:,} of {wanted:,} finished turns")
        finally:
            await connection.close()
        return there

    if asyncio.run(fill()) < wanted:
        tidy(dsn)


def fill_waiting(dsn: str, *, keys: int, turns: int) -> None:
    """`turns` pending turns, spread over `keys` concurrency keys that are taken."""

    async def fill() -> None:
        connection = await _open(dsn)
        try:
            prefix = f"held-{keys}-"
            await connection.execute(_HELD, prefix, keys)
            await connection.execute(_WAITING, prefix, keys, turns)
        finally:
            await connection.close()

    asyncio.run(fill())
    tidy(dsn)


def remove_waiting(dsn: str) -> None:
    open_statuses = "('pending', 'running')"
    execute(dsn, f"delete from turns where tenant_id = {TENANT} and status in {open_statuses}")  # noqa: S608


def tidy(dsn: str) -> None:
    """What autovacuum would do in the middle of a measurement."""
    say("    vacuum and analyze")
    execute(dsn, "vacuum (analyze)")
    execute(dsn, "checkpoint")


def find_database(dsn: str, name: str) -> bool:
    return bool(fetch(dsn, "select 1 from pg_database where datname = $1", name))


async def _open(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(_QUICK + _OWNER)
    return connection
